"""A generation as the journal sees it."""

from store_suite import record


class JournaledLog:
    """Its events, and how far they are stored.

    :param how: its record's fields, where they are not the usual
    """

    def __init__(self, journal, **how):
        self.record = record(**how)
        self.events = []
        self.given = 0
        self.fenced = False
        self.entry = journal.begin(self.record, self.events, self)

    def append(self, event):
        self.events.append(event)
        self.entry.appended()

    def on_stored(self, upto, *, ended):
        self.given = upto

    def on_begin(self, record):
        pass

    def on_fenced(self, *, deleted):
        self.fenced = True
