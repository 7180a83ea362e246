"""Middleware, outermost first: connections, access log, authentication, admission (queue and size limits)."""
