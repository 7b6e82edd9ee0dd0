"""Differential privacy: the plan of a run, its accounting, and a store's ledger of charges.

Nothing here imports torch; the training code takes clip and noise from the plan.
"""
