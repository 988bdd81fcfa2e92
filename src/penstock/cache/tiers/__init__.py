"""Where entries are kept: in memory, on disk, in Redis; nearest first."""
