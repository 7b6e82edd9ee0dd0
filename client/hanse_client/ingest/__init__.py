"""A store's door: raw rows of its own data in, canonical events under pseudonyms out."""
