"""How good a run is: baselines, groups of customers, metrics of the outlook, a map."""
