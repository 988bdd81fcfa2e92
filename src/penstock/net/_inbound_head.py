"""A request's head that did not come at once: gathered until its end is there, and judged as it comes.  No I/O."""

from __future__ import annotations

from penstock.net._request_head import HeadParser


class InboundHead:
    """The head of one request, of which a part has come.

    :param heads: judges it
    :param stripped: whether an empty line in front of the request has been ignored; another is not
    :raises penstock.net._request_head.Refusal: what has come can become no head
    """

    __slots__ = ("_came", "_checked", "_heads", "stripped")

    def __init__(self, heads: HeadParser, data: bytes, *, stripped: bool) -> None:
        heads.check(data, 0)
        self._heads = heads
        self._came = bytearray(data)
        self._checked = len(data)  # bytes that have been looked at
        self.stripped = stripped

    def feed(self, data: bytes) -> bytes:
        """Take what has come.

        :returns: all of it, once the head's end is there, with what follows that; before, nothing
        :raises penstock.net._request_head.Refusal: it can become no head any more
        """
        came, checked = self._came, self._checked
        came += data
        if checked == 1 and not self.stripped and came.startswith(b"\r\n"):
            self.stripped = True
            del came[:2]
            checked = 0
        if came.find(b"\r\n\r\n", max(0, checked - 3)) >= 0:
            return bytes(came)
        self._heads.check(came, checked)
        self._checked = len(came)
        return b""

    def __repr__(self) -> str:
        return f"<InboundHead {len(self._came)} bytes here>"
