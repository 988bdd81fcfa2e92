"""What holds for all tests: a slow machine is no fault of the code."""

import hypothesis

# What hypothesis chooses for CI is kept: there it draws the same examples every time.
hypothesis.settings.register_profile(
    "patient",
    parent=hypothesis.settings(),
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("patient")
