"""Mixed load for minutes: memory must stay flat, nothing may leak, and the ledger must equal the bill.

A real gateway (supervisor and two workers) stands before a real simulated upstream, in all three ways in which
an upstream is asked.  Its visitors want everything at once: plain answers and streams, in bursts and at a
pace, on every endpoint of both dialects; they hang up at any moment, read slowly, lie idle on their
connections, send nonsense, and meet upstreams that fail.  Meanwhile the configuration is reloaded.

Each second the control port tells what every worker holds.  At the end the visitors leave, and then

* whatever was held for them (connections, calls, logs, tasks, slots, open rows) must have come back to nothing,
* no row of the ledger may be open, and for each model none of whose rows is marked as estimated, the
  ledger's tokens must equal the bill's,
* no visitor who behaved may have been failed,
* the resident memory's slope over the second half, by least squares, must not be above :data:`.run.LEAK` with
  95 % confidence.  What calls under way need comes and goes, so the slope is that of the quietest moments, the
  least of each sixtieth of the run; the interval is widened for what neighbours have in common.  (Runs under
  :data:`.run.JUDGED` minutes are too short for a slope to say anything: it is only shown.)

    python -m benchmarks.soak [--minutes 10]     writes benchmarks/results/soak.json and soak.txt; 1: something leaks
"""
