"""Keys end while the gateway runs.

The clock looks whether the next key's time has come, and only where one ends at all; a call looks at nothing.  What is
recognised without its key being looked for (a head on its connection, a request in the same bytes) is forgotten then, as
with another configuration.  So a key ends a sweep late at most, and what has begun with it goes on.

Once it has ended it stays so until the configuration is another, though the machine's clock be set back.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING

from penstock.config.expiry import moment

if TYPE_CHECKING:
    from penstock.gateway.stages.authenticate import Keyring
    from penstock.net.clock import Clock


class Expiry:
    """Sees to it that the keys of one keyring after another end.

    :param forget: told when keys have ended: whatever is recognised by then has to be looked at once more
    :param unix_time: seconds since 1970
    """

    def __init__(
        self, clock: Clock, forget: Callable[[], None], unix_time: Callable[[], float] = time.time
    ) -> None:
        self._clock = clock
        self._forget = forget
        self.unix_time = unix_time
        self._keyring: Keyring | None = None

    def __repr__(self) -> str:
        at = inf if self._keyring is None else self._keyring.next_end
        return f"<Expiry{'' if at == inf else f', next at {moment(at)}'}>"

    def use(self, keyring: Keyring) -> None:
        """Of this keyring from now on; what has ended is out of it when this returns."""
        keyring.end(self.unix_time())
        self._keyring = keyring
        self._watch(keyring)

    def sweep(self, _: float) -> None:
        keyring = self._keyring
        if keyring is not None and keyring.next_end <= self.unix_time():
            keyring.end(self.unix_time())
            self._watch(keyring)
            self._forget()

    def _watch(self, keyring: Keyring) -> None:
        if keyring.next_end < inf:
            self._clock.add(self)
        else:
            self._clock.remove(self)
