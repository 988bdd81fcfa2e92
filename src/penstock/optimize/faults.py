"""What can be wrong with what a user gives to a step; each message names the file and what to do."""

from __future__ import annotations

from penstock.errors import PenstockError


class OptimizeError(PenstockError):
    """A step cannot be taken."""

    code = "optimize_failed"


class UnusableModel(OptimizeError):
    """A directory is no model that can be loaded, or not on this machine."""

    code = "unusable_model"


class UnusableText(OptimizeError):
    """A file of texts for calibration, training or evaluation is empty or in the wrong form."""

    code = "unusable_text"


class UnusableTarget(OptimizeError):
    """The directory to be written cannot be: something else is there, another process writes it, no room."""

    code = "unusable_target"


class StepFailed(OptimizeError):
    """The library that does the numerics gave up, or what it made is not what was asked for."""

    code = "step_failed"


class TooMuchLost(OptimizeError):
    """What was made is worse than it may be."""

    code = "too_much_lost"


class ExtraLacking(OptimizeError):
    """A library is not installed."""

    code = "extra_lacking"
