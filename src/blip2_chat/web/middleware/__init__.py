"""Around every request, outermost first: connections, the access log, who may ask, and how much is taken in."""
