"""A process that writes generations until it is killed, and says on standard output what readers may have.

    python crashing_writer.py sqlite|redis PLACE

A line for each time that the journal lets readers go on: the generation's id, how many events, and whether it
has ended.  Its events are their own index.
"""

import asyncio
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from store_suite import record

from penstock.generation.journal import Journal
from penstock.generation.store import Ending, new_owner
from penstock.generation.stores.redis import RedisStore
from penstock.generation.stores.sqlite import SQLiteStore
from penstock.net.clock import Clock


class Log:
    def __init__(self, journal, owner, length):
        self.record = record(owner=owner)
        self.events = []
        self.length = length
        self.entry = journal.begin(self.record, self.events, self)

    def grow(self):
        self.events.append(b"%d" % len(self.events))
        self.entry.appended()
        if len(self.events) == self.length:
            self.entry.end(Ending(), time.time() + 3_600)
            return False
        return True

    def on_stored(self, upto, *, ended):
        sys.stdout.write(f"{self.record.id} {upto} {int(ended)}\n")
        sys.stdout.flush()

    def on_begin(self, record):
        pass

    def on_fenced(self, *, deleted):
        sys.stdout.write(f"{self.record.id} fenced 0\n")
        sys.stdout.flush()


async def main(kind, place):
    store = SQLiteStore(place, 1 << 30) if kind == "sqlite" else RedisStore(place, 1 << 30)
    await store.start()
    owner = new_owner()
    await store.renew(owner, time.time() + 3)
    # A reader's budget that never runs out: what is said to be stored must be.
    journal = Journal(store, Clock(), budget=1_000)
    journal.start()
    logs = []
    number = 0
    while True:
        while len(logs) < 10:
            number += 1
            logs.append(Log(journal, owner, 20 + number * 37 % 400))
        logs = [log for log in logs if log.grow()]
        await asyncio.sleep(0.0005)


asyncio.run(main(*sys.argv[1:]))
