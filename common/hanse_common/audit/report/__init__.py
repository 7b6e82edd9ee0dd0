"""The audit's report for signing: guarantees of the ledgers, verified points and open ones."""
