"""Telling callers' own servers that something has ended: signed, durable, tried again for a day."""
