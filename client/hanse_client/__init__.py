"""A store's node: reads the store's own data, trains on it privately, answers the coordinator."""
