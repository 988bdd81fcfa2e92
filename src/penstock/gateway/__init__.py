"""The pipeline: one order, one file a stage."""
