"""Smaller and quicker models, and what that costs them: steps from one model directory to another.

Well-kept libraries do the numerics (``penstock.optimize.numerics``, with the extra ``optimize``); what is
here and beside them makes one tool of them: what is no model is refused before anything is loaded, a
directory is there whole or not at all, and each step reports size, perplexity, speed and memory before and
after.  Nothing outside ``numerics`` needs the extra.
"""
