"""What models read: a store's events prepared as histories, sequences, reviews and offers."""
