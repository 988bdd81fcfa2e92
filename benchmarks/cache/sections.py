"""What lies beside a question of ``benchmarks.cache.articles``: for the gateway's ``neighbours``."""

from __future__ import annotations

import re
from typing import Any

SECTIONS = 12
_ASKED = re.compile(r"section (\d+) of")


def following(body: dict[str, Any]) -> list[dict[str, Any]]:
    """The next section of the same document."""
    [message] = body["messages"]
    found = _ASKED.search(message["content"])
    if found is None or int(found[1]) + 1 >= SECTIONS:
        return []
    text = f"{message['content'][: found.start(1)]}{int(found[1]) + 1}{message['content'][found.end(1) :]}"
    return [{**body, "messages": [{**message, "content": text}]}]
