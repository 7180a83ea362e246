"""Pictures of requests: the rules for URLs, and the threads that open them."""
