"""Who is told that something has ended."""

from __future__ import annotations

from penstock.config.model._section import Seconds, Section
from penstock.config.secret import Secret


class WebhookConfig(Section, frozen=True):
    """Somebody who is told when something has ended."""

    url: str  # gets a POST for each event
    secret: Secret  # "whsec_" and a key in base64, as Standard Webhooks has it: signs what is sent
    tenant: str = "default"  # whose events these are
    events: list[str] = []  # such as batch.completed, or batch.*; empty: all


class WebhooksConfig(Section, frozen=True):
    """Events are sent until they are taken, for about a day and a half."""

    path: str = ""  # a SQLite file for what is still to be sent; empty: webhooks.sqlite in `files.directory`
    timeout: Seconds = 15.0  # of one attempt
    endpoints: list[WebhookConfig] = []  # who is told
