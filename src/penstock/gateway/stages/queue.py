"""Who goes next to an upstream?

The contract (DESIGN section 2): tier, deadline and fairness decide; what cannot make its deadline is refused at
once with an honest Retry-After; a caller that waits is kept alive.

Today: first come, first served, per upstream.  A call takes a free connection or waits for one in the pool's
line, which is bounded by ``pool.max_waiting``; past it the call is refused (503).
"""

from __future__ import annotations

from penstock.net.connection import Connection
from penstock.upstream.http import HTTPUpstream
from penstock.upstream.transfer import Transfer


async def take_turn(upstream: HTTPUpstream, transfer: Transfer) -> Connection:
    """A connection to the upstream, in one's turn; it goes back to the pool by itself.

    The upstream is not to blame for the time in the line: its clock for the first token starts after it.

    :raises penstock.errors.Overloaded: the line is full, or the call's whole time went by in it
    :raises penstock.errors.UpstreamError: no connection could be made
    """
    connection = upstream.pool.acquire_nowait()
    if connection is None:
        connection = await upstream.acquire(transfer.job.timeouts.total)
        transfer.sent = transfer.now()
    return connection
