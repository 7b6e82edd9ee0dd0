"""Operators who follow docs/operators.md, step by step; see `tests/e2e/test_operators_page.py`."""
