"""Where requests become calls and calls become answers: the order (``pipeline``) and its ``stages``, what is ``kept`` for
callers, and what runs ``beside`` the calls.
"""
