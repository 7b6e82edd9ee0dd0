"""How well a store's customers were foretold; the figures stay at the store."""
