"""In the processes of a gateway under test: one of them is killed, once, at the moment that ``KILLED_AT`` names.

It is ``before STEP`` or ``after STEP`` of a provider's batch, or ``keeping``: the third result is in the ledger then, and
not among the results.  ``KILLED_MARK`` is a file that says that it was done.
"""

import os
import signal
from pathlib import Path

AT, MARK = os.environ.get("KILLED_AT", ""), Path(os.environ.get("KILLED_MARK", "/nowhere"))


def kill():
    if not MARK.exists():
        MARK.touch()
        os.kill(os.getpid(), signal.SIGKILL)


if AT:
    from penstock.batches.run import Run
    from penstock.batches.store import BatchStore

    noted, keep, kept = BatchStore.note, Run.keep, []

    async def note(self, record):
        if f"before {record.step.value}" == AT:
            kill()
        await noted(self, record)
        if f"after {record.step.value}" == AT:
            kill()

    async def counted(self, *what):
        kept.append(what)
        if AT == "keeping" and len(kept) == 3:
            kill()
        await keep(self, *what)

    BatchStore.note, Run.keep = note, counted
