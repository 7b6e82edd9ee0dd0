"""A coordinator's real deployment: its folder, its gate, its SuperLink and its runs."""
