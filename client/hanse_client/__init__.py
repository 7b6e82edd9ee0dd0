"""A store's node: it reads the store's own data, trains on it privately and answers the coordinator."""
