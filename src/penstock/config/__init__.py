"""Configuration: what may be said, and what it means."""
