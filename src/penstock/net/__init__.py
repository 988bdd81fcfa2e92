"""HTTP/1.1 over asyncio: the listener, the pool of upstream connections, the clock that both sweep by."""
