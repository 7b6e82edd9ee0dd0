"""Analytics at the store, derived from the shared model: demand, interest migration, anomalies."""
