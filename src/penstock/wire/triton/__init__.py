"""Triton's models in the terms of OpenAI's API: prompts and parameters in tensors, tensors in answers."""
