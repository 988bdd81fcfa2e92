"""What a local model costs, and what our layer adds to it."""
