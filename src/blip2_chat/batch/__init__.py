"""Captions and answers for a whole collection of pictures.

sources.py, tables.py, shards.py   folders, lists, tables and WebDataset shards -> items, lazily and in order
captioner.py, pipeline.py          items -> results: decoding, encoding and generation beside each other
journal.py                         results on the disk, one transaction per batch: what survives a kill
writers.py, sidecar.py             the journal -> Parquet, JSONL, CSV, WebDataset; a text file beside each picture
run.py                             all of it together; api.py is the same as a lazy iterator
ray_run.py                         the same on many machines
report.py                          the result as one HTML page
"""
