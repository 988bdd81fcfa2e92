"""Generations: the append-only logs that every answer is read from."""
