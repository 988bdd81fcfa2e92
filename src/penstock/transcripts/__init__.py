"""Conversations that were held through the gateway, written down with their tenant's consent to learn from."""
