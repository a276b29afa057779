"""Screening: structures of thousands of compositions, made by many processes, each composition exactly once."""
