"""A run's folder: paths, readers and writers of everything that a run leaves."""
