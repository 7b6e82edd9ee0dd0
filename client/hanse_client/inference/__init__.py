"""Use of a trained model at a store: predictions, audiences, evaluation, model card, service.

Everything is computed from the store's own histories on the store's own machine; nothing
here opens a connection.
"""
