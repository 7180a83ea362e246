"""Captions and answers for a whole collection of pictures.

inputs/                            folders, lists, tables and archives -> items, lazily and in order
captioner.py, pipeline.py          items -> results: decoding, encoding and generation in parallel
journal.py                         stored results, one transaction per batch: what survives a kill
outputs/                           the journal -> Parquet, JSONL, CSV, WebDataset, sidecar files, the report
run.py                             all of it together; api.py is the same as a lazy iterator
ray_run.py                         the same on many machines
"""
