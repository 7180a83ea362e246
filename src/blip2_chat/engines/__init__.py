"""What runs the model: the protocol in `engine.py`, and the runtimes that satisfy it."""
