"""The round log: the coordinator's append-only, witnessed record of a federation's exchanges.

    records     the three kinds of records: announced, closed, published
    merkle      the Merkle tree over them: roots, proofs of inclusion and consistency
    checkpoint  the tree's size and root, signed by the coordinator, cosigned by stores
    receipt     a store's signed statement of the ledger entry that charges an upload
    file        the files of the records and of the last checkpoint
    evidence    the proofs that travel with an exchange, and a store's check of them

An exchange is announced in the log before any store hears of it. The announcement's
checkpoint is part of the exchange's header, so that stores which are shown different logs
derive masks that do not cancel. A store that has seen a log takes part only in exchanges of a
log that continues it.
"""
