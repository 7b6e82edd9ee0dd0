"""Arms of a comparison: laid out, trained and read."""
