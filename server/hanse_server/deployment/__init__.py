"""A coordinator's deployment: its folder, the TLS gateway, Flower's SuperLink, and runs."""
