"""How good a run is: baselines beside it, groups of customers, the usual instruments, a map."""
