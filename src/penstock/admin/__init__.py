"""Running and watching a gateway: supervisor, control API."""
