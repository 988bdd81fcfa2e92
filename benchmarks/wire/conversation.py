"""What an agent that reads a program says: real code and real prose, the same for everybody with this Python.

The code is that of Python's own library, as a tool would return it; the prose is this project's documentation.
"""

from __future__ import annotations

import random
import sysconfig
from pathlib import Path

_LIBRARY = Path(sysconfig.get_path("stdlib"))
_DOCS = Path(__file__).resolve().parents[2] / "docs"
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": text,
            "parameters": {
                "type": "object",
                "properties": {each: {"type": "string"} for each in arguments},
                "required": arguments,
            },
        },
    }
    for name, text, arguments in (
        ("read_file", "Read a file of the repository, or a range of its lines.", ["path", "lines"]),
        ("search", "Find a regular expression in all files below a folder.", ["pattern", "folder"]),
        ("run", "Run a command in the repository's folder, and tell what it printed.", ["command"]),
        ("edit", "Replace a text that occurs once in a file by another one.", ["path", "old", "new"]),
    )
]


class Conversation:
    """The messages of an agent, which grow by a tool's result and the model's word at each turn.

    :param grows: bytes, about, of each turn
    """

    def __init__(self, seed=1, grows=10_000):
        self._rand = random.Random(seed)
        self._code = sorted(each for each in _LIBRARY.glob("*.py") if each.stat().st_size > 20_000)
        self._prose = sorted(each for each in _DOCS.glob("*.md") if each.stat().st_size > 10_000)
        self._grows = grows
        self.messages = [{"role": "system", "content": self._part(self._prose, 2_500)}]
        self._ask()

    def _part(self, files, size):
        text = self._rand.choice(files).read_text()
        begin = text.find("\n", self._rand.randrange(max(len(text) - size, 1))) + 1
        return text[begin : begin + size]

    def _ask(self):
        self.messages.append({"role": "user", "content": self._part(self._prose, 400)})

    def turn(self):
        """The model asks for a file and gets it."""
        said = max(self._grows // 8, 100)
        path = self._rand.choice(self._code).name
        call = f"call_{self._rand.randbytes(12).hex()}"
        self.messages += [
            {
                "role": "assistant",
                "content": self._part(self._prose, said),
                "tool_calls": [
                    {
                        "id": call,
                        "type": "function",
                        "function": {"name": "read_file", "arguments": f'{{"path": "{path}"}}'},
                    }
                ],
            },
            {
                "role": "tool",
                "tool_call_id": call,
                "content": self._part(self._code, self._grows - said),
            },
        ]
