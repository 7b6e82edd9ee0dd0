"""Using a trained model at a store: rankings, outlooks, audiences, figures, a card, a service.

Everything is computed from the store's own histories on the store's own machine; nothing
here opens a connection.
"""
