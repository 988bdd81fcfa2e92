"""Penstock: a gateway for LLM APIs that is cheap to run and never loses or pays twice for a token."""

__version__ = "0.1.0"
