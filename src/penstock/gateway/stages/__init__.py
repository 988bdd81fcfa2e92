"""The stages of a request, in order: authenticate, decode, degrade, admit, attach, lookup, join, read; route, allot, queue, call.

Each file holds one stage whole: what it takes it gives back there.  *record* sees both halves.  The other files are parts
of a stage that a configuration may leave out (of *lookup*: prefetch, resemble; of *call*: batch, hedge) or that has more
than one form (of *read*: read_adapted, read_opaque), what *route* finds (candidate) and puts in order (choice), and what
*call* knows of an answer that broke (unfinished) and tells of the upstream (learnt).
"""
