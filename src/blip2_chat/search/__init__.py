"""Pictures found by words, or by another picture.

store.py       the index on disk: a LanceDB database, in a folder or at a URL
embedder.py    the retrieval model as a worker of a run
indexing.py    pictures -> an index: a run that can be killed and goes on
approximate.py the approximate search of large indexes, and how much of the exact result it finds
index.py       `Index`: text or picture -> the best pictures
"""
