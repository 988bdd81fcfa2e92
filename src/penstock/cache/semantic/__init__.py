"""Answers to questions that mean the same: found by embedding, given only where that has been shown to be right."""
