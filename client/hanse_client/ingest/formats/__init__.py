"""Readers of files: CSV, JSON lines, Parquet, spreadsheets, each compressed or not."""
