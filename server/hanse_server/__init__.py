"""The coordinator: rounds, aggregation, checkpoints. It never sees data and needs no torch."""
