"""What follows from the shared model's heads without training: measured beside baselines."""
