"""Serving on many machines: Ray Serve runs replicas of the application, and one process in front of them does what
concerns all requests: connections, authentication, limits, and which replica a request goes to."""
