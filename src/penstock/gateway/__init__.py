"""Where requests become calls and calls become answers: the order (``pipeline``), its ``stages``, and what stands beside it."""
