"""Ingestion: reads a store's raw rows into canonical events whose customers are pseudonyms."""
