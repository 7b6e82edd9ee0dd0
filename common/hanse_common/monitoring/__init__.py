"""Health checks and metrics of a coordinator or a store, over HTTP on loopback.

Every request reads the files that a run or a node has written. The processes of the protocol
count nothing, so that their crash loses no metric and a fault here stops no round.
"""
