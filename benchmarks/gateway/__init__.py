"""What a gateway costs: CPU time per request and per streamed chunk, latency, memory; side by side.

One run starts every system at once, each pinned to the first core, all in front of the same scripted
upstream (:mod:`~benchmarks.gateway.upstream`).  The load generator (:mod:`~benchmarks.gateway.load`) and
the upstream have the second core.  Rounds are interleaved (A B C, A B C, …), so that a noisy minute
hurts everybody; figures are medians over the rounds, and ratios come from the same run.

* What is counted is CPU time, user and system, of the whole process tree: supervisor, workers, threads.
  Wall-clock time would mostly measure who else was awake.
* Every prompt is another one, so that nothing can be answered from a cache; how many calls reached the
  upstream is compared with how many were sent.
* Every answer is checked: status, length, text, ``[DONE]``.  A figure whose answers were wrong says so.
* Penstock runs as in production: keys are checked, each attempt goes to a ledger in SQLite, metrics are
  counted, each request is logged to a file.

    python -m benchmarks.gateway --quick     three systems, under 50 s, one JSON object
    make bench                               everything; writes docs/benchmarks.md and benchmarks/results/
"""
