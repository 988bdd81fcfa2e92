"""Batches: many calls in one file, run at leisure, through the same pipeline as every other call."""
