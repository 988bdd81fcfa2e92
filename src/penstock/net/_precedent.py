"""The head before this one on its connection: one that is the same, but for its length, is not read again.

Most clients say the same on one connection again and again, but for the digits of Content-Length.  A head that is, byte
for byte, one that the parser has accepted, with other digits or none, means what that one meant; and what the
application has made of that one, it need not find out again (``Exchange.meaning``).

Only heads of HTTP/1.1 that announce a body by Content-Length and do not ask whether to send it; of any other the next one
is read.  These bytes hold keys: they are held no longer than the connection lasts, and go as soon as another head comes.
"""

from __future__ import annotations

from penstock.net._request_head import MAX_DIGITS, RequestHead

_END = b"\r\n\r\n"
_LENGTHS = (b"\r\ncontent-length: ", b"\r\nContent-Length: ")  # as nearly everybody spells it


class Precedent:
    """A head that was read.

    :param raw: everything up to the blank line, without the line ends before and after that
    :param head: what it was found to say
    :param max_bytes: of a head, with its blank line
    """

    __slots__ = ("_before", "_behind", "_head", "_max_bytes", "_raw", "_rest")

    def __init__(self, raw: bytes, head: RequestHead, max_bytes: int) -> None:
        self._raw = raw  # until it is divided, at the second head: there may be none
        self._head = head
        self._max_bytes = max_bytes
        self._before = b""  # all that stands before the digits; nothing: there is no other head like this one
        self._behind = b""  # all that stands behind them, with the blank line
        self._rest = b""  # the same with the digits, of the last one that was like this one

    def __repr__(self) -> str:
        return f"<Precedent {self._head!r}>"

    def again(self, data: bytes, at: int) -> tuple[RequestHead, int] | None:
        """The head that begins at ``at``, if it is this one, and where its body begins; None: it must be read."""
        if self._raw:
            self._divide()
        before = self._before
        if not before or not data.startswith(before, at):
            return None
        start = at + len(before)
        rest = self._rest
        if data.startswith(rest, start):
            return self._head, start + len(rest)
        end = data.find(b"\r", start, start + MAX_DIGITS + 1)
        if end < 0 or not data.startswith(self._behind, end):
            return None
        digits = data[start:end]
        body_at = end + len(self._behind)
        if not digits.isdigit() or body_at - at > self._max_bytes:
            return None
        self._rest = data[start:body_at]
        head = self._head = self._head.of_length(digits)
        return head, body_at

    def _divide(self) -> None:
        """Find the digits, if they stand where they usually do; else there is no other head like this one."""
        raw, self._raw = self._raw, b""
        head = self._head
        if head.length <= 0 or head.http10 or head.expects_continue:
            return
        digits = head.headers[b"content-length"]
        for name in _LENGTHS:
            at = raw.find(name)
            if at >= 0:
                start = at + len(name)
                end = start + len(digits)
                if raw.startswith(digits, start) and raw[end : end + 1] in (b"\r", b""):
                    self._before, self._rest, self._behind = raw[:start], raw[start:] + _END, raw[end:] + _END
                return
