"""What a store's operator does: `hanse store …`, from the first key to the last round."""
