"""Who is served when there is too much to do: a simulation, under a clock of its own, of calls before an upstream.

The upstream works on a fixed number of calls at a time, takes more, and lets those wait, first come, first
served, as inference servers do.  Before it stands nothing (``fcfs``), a semaphore (``semaphore``), or the gate
of ``penstock.flow`` with a fixed limit or with one that it finds out by itself.  No network, no tasks: what is
compared is decisions, and the code that decides is the product's own.

    python -m benchmarks.flow                      on a workload made by a seeded generator
    python -m benchmarks.flow --trace FILE         arrivals and lengths of a published trace
    python -m benchmarks.flow --cost               what the decisions cost in CPU time
"""
