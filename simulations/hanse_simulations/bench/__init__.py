"""Benchmarks, each beside its reference and in one run."""
