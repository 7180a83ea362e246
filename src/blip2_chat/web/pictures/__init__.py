"""Pictures on their way into the server: where they may be fetched from, and the threads that open them."""
