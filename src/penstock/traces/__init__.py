"""Spans of calls, as OpenTelemetry has them: what they say, and who sends them."""
