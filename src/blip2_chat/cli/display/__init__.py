"""What a person at a terminal sees: answers on stdout, progress and notes on stderr."""
