"""Federations on one machine: recipes, real shops, engines, reports and benchmarks."""
