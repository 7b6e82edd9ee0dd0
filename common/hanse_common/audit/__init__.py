"""Audit of stores' ledgers and round logs: integrity, epsilon, and the signed terms."""
