"""Following a run while it works: its rounds, its stores, its memory, other people's trackers."""
