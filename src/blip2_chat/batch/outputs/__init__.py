"""Outputs of a run: one file (Parquet, JSONL, CSV, tar), text files next to the pictures, a report."""
