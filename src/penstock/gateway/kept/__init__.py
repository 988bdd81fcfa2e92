"""What the gateway keeps for its callers, each room by its path, and bodies that come in pieces, which become calls or files."""
