"""The stages of a request, in order: authenticate, admit, attach, lookup, join; queue, route, call; read, record.

Each file holds one stage whole: what it takes it gives back there.
"""
