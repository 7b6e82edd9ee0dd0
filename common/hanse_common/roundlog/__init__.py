"""The coordinator's append-only record of a federation's exchanges, and who vouches for it.

    records     what is written down: announced, closed, published
    merkle      the tree over them: roots, proofs of inclusion and consistency
    checkpoint  the tree's size and root, signed by the coordinator, cosigned by stores
    receipt     a store's word for what it wrote into its ledger before an upload
    file        where the records and the last checkpoint lie
    evidence    what travels with an exchange, and how a store checks it

An exchange is announced in the log before any store hears of it. The announcement's
checkpoint is part of the exchange's header, so that stores which are shown different logs
derive masks that do not cancel; and a store that has seen a log takes part only in what
goes on from it.
"""
