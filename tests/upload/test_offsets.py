"""The offset machine against a model: a plain list of what was confirmed, and the specifications' rules."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from penstock.errors import (
    BodyTooLarge,
    Gone,
    InconsistentLength,
    OffsetMismatch,
    PenstockError,
    UploadCompleted,
)
from penstock.upload.offsets import Offsets, Phase

MAX = 50
sizes = st.integers(0, 60)
maybe = st.none() | sizes


class Uploading(RuleBasedStateMachine):
    """What the client was told (``confirmed``) is never less than before, and never wrong."""

    def __init__(self):
        super().__init__()
        self.offsets = Offsets(max_size=MAX)
        self.confirmed = 0
        self.taken = 0
        self.length = None
        self.phase = "open"
        self.append = None  # (closes, content left or None)

    @precondition(lambda self: self.append is None)
    @rule(
        offset=st.integers(0, 3) | sizes,
        exact=st.booleans(),
        closes=st.none() | st.booleans(),
        length=maybe,
        content=maybe,
    )
    def begin(self, offset, exact, closes, length, content):
        offset = self.confirmed if exact else offset
        before = repr(self.offsets)
        try:
            wanted = self.offsets.begin(offset, closes=closes, length=length, content_length=content)
        except PenstockError as error:
            assert repr(self.offsets) == before
            assert isinstance(error, self.refusal(offset, closes, length, content))
            return
        assert self.refusal(offset, closes, length, content) is None
        assert wanted == (self.phase == "open")
        if wanted:
            self.length = self.length if length is None else length
            self.append = (closes, content)

    def refusal(self, offset, closes, length, content):
        """The error that the rules ask for."""
        if self.phase == "gone":
            return Gone
        if offset != self.confirmed:
            return OffsetMismatch
        if self.phase == "complete":
            again = closes is not False and content == 0 and length in {None, self.confirmed}
            return None if again else UploadCompleted
        if length is not None:
            if self.length not in {None, length} or length < self.confirmed:
                return InconsistentLength
            if length > MAX:
                return BodyTooLarge
        whole = self.length if length is None else length
        if content is not None:
            if offset + content > MAX:
                return BodyTooLarge
            if whole is not None and (offset + content > whole or (closes and offset + content != whole)):
                return InconsistentLength
        return None

    @precondition(lambda self: self.append is not None)
    @rule(size=st.integers(0, 20))
    def take(self, size):
        closes, left = self.append
        if left is not None:
            size = min(size, left)
            self.append = (closes, left - size)
        after = self.confirmed + self.taken + size
        if self.length is not None and after > self.length:
            with pytest.raises(InconsistentLength):
                self.offsets.take(size)
            self.phase = "gone"
            self.lose()
        elif after > MAX:
            with pytest.raises(BodyTooLarge):
                self.offsets.take(size)
            self.lose()
        else:
            self.offsets.take(size)
            self.taken += size

    @precondition(lambda self: self.append is not None)
    @rule()
    def confirm(self):
        self.offsets.confirm(self.offsets.unconfirmed)
        self.confirmed += self.taken
        self.taken = 0

    @precondition(lambda self: self.append is not None)
    @rule()
    def break_off(self):
        self.lose()

    def lose(self):
        self.offsets.lose()
        self.taken = 0
        self.append = None

    @precondition(lambda self: self.append is not None and not self.append[1])
    @rule()
    def end(self):
        self.confirm()
        closes, _ = self.append
        self.append = None
        last = self.confirmed == self.length if closes is None else closes
        if last and self.length not in {None, self.confirmed}:
            with pytest.raises(InconsistentLength):
                self.offsets.end()
            return
        assert self.offsets.end() == last
        if last:
            self.phase, self.length = "complete", self.confirmed

    @invariant()
    def agrees(self):
        offsets = self.offsets
        assert (offsets.offset, offsets.unconfirmed) == (self.confirmed, self.taken)
        assert offsets.length == self.length
        assert offsets.phase.name.lower() == self.phase
        assert offsets.offset + offsets.unconfirmed <= MAX
        if offsets.phase is Phase.COMPLETE:
            assert offsets.offset == offsets.length


Uploading.TestCase.settings = settings(
    max_examples=300, stateful_step_count=40, deadline=None, derandomize=True
)
TestUploading = Uploading.TestCase


def test_a_stored_state_that_cannot_be_is_refused():
    with pytest.raises(BodyTooLarge):
        Offsets(max_size=5, length=6)
    with pytest.raises(InconsistentLength):
        Offsets(max_size=5, offset=3, length=2)


def test_it_tells_its_state():
    offsets = Offsets(max_size=10, offset=3)
    offsets.begin(3)
    offsets.take(2)
    assert repr(offsets) == "<Offsets open 3+2 of ?>"
