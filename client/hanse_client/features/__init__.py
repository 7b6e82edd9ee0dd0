"""Features: arrays by customer that are prepared from a store's events and read by all tasks."""
