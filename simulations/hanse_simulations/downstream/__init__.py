"""Downstream tasks solved with the shared model's heads without training, and their baselines."""
