"""Teaching the embedded model a kind of thing that it does not know: see `__main__.py`."""
