"""A worker's place: it stays while the processes in it come and go."""

from __future__ import annotations

import socket

from penstock.admin.backoff import Backoff
from penstock.admin.process import WorkerProcess


class Slot:
    """One place: its socket, and the process that has it now."""

    def __init__(self, index: int, listening: socket.socket) -> None:
        self.index = index
        self.listening = listening
        self.process: WorkerProcess | None = None
        self.backoff = Backoff()
        self.adopter: WorkerProcess | None = None  # who accepts connections while nobody is here
        self.restarts = 0

    @property
    def state(self) -> str:
        return self.process.state if self.process is not None else "gone"

    def __repr__(self) -> str:
        return f"<Slot {self.index}: {self.process!r}, {self.restarts} restarts>"
