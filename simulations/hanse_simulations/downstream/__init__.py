"""Downstream tasks that the shared model's heads solve without training, and baselines of each."""
