"""Which call goes next, and how often it is tried."""
