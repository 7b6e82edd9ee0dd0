"""Differential privacy as arithmetic: plans and accounting. No torch."""
