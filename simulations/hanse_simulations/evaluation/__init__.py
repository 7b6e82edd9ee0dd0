"""How good a run is: baselines beside it, groups of customers, metrics of the outlook, a map."""
