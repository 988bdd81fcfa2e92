"""What callers send to be kept: forms with files in them, and the store of those files."""
