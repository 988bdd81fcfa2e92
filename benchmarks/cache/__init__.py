"""What the cache costs and how often it hits."""
