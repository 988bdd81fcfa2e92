"""Databases and places for the bytes of uploads: on this machine, in Redis, in storage that speaks S3."""
