"""What breaks and distance cost: callers with and without the client, over a link with packets of its own."""
