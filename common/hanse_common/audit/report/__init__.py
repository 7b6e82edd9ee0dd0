"""A page that a person can sign: what stores' ledgers promise, what was verified, what was not."""
