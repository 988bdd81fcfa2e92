"""What a model may lose against the one that it was made of: one that loses more is not kept."""

from __future__ import annotations

import msgspec

from penstock.optimize.accuracy import drop
from penstock.optimize.faults import TooMuchLost
from penstock.optimize.figures import Figures, loss


class Gate(msgspec.Struct, frozen=True):
    """``max_loss``: of perplexity, as a share; ``max_drop``: of the share of right answers.  None: any."""

    max_loss: float | None = None
    max_drop: float | None = None

    def __bool__(self) -> bool:
        return self.max_loss is not None or self.max_drop is not None

    def mistakes(self, *, questions: bool) -> list[str]:
        """Why these bounds make no sense.

        :param questions: there are some, whose answers can be counted
        """
        found = []
        if self.max_loss is not None and not self.max_loss >= 0:
            found.append("max_loss: not below 0")
        if self.max_drop is not None and not 0 <= self.max_drop <= 1:
            found.append("max_drop: from 0 to 1")
        if self.max_drop is not None and not questions:
            found.append("max_drop: right answers are counted of questions; name a file of them")
        return found

    def require(self, after: Figures, before: Figures) -> None:
        """See that a model has lost no more than that, as it was measured.

        :raises TooMuchLost: it has
        """
        if self.max_loss is not None:
            lost = loss(after, before)
            if not lost <= self.max_loss:  # nor where it is no number
                raise TooMuchLost(
                    f"{after.name} loses {lost:.1%} of {before.name}'s perplexity, more than {self.max_loss:.1%}: it is "
                    "not good enough"
                )
        if self.max_drop is not None and after.accuracy is not None and before.accuracy is not None:
            fewer = drop(after.accuracy, before.accuracy)
            if fewer.share > self.max_drop:
                raise TooMuchLost(
                    f"{after.name} answers {after.accuracy.right} of {len(after.accuracy.marks)} questions rightly, "
                    f"{before.name} {before.accuracy.right}: {fewer.share:.1%} fewer (by {fewer.interval[0]:.1%} to "
                    f"{fewer.interval[1]:.1%} with a confidence of 95 %), more than {self.max_drop:.1%}: it is not "
                    "good enough"
                )
