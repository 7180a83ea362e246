"""Where a run's results go: one file (Parquet, JSONL, CSV, tar), text files beside the pictures, a report."""
