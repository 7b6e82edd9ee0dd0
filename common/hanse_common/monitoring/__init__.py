"""Health and figures of a coordinator or a store, over HTTP on loopback, for its own operator.

Everything is read from the files that a run or a node leaves, when somebody asks: nothing is
counted in the processes that speak the protocol, so that a crash of either side loses no figure
and a fault here stops no round.
"""
