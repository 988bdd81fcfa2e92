"""Local inference: a model on this machine as an upstream like any other.

No numerics here: a well-kept library computes the tokens, and this room makes it a server.

::

    bytes → net → server → request ─┐                     ┌─ backend (one thread: add, step, cancel)
                                    ├─ Engine (priority, slots) ─┤
    bytes ← net ← answer ← text ────┘                     └─ Progress: token ids, as they come

* ``backend`` is what a library must be able to do: one model, driven by one thread.  ``openvino`` does it with
  OpenVINO GenAI, ``onnx`` with ONNX Runtime, ``transformers`` with PyTorch; the last two leave the choice of a token
  to ``_drawing``, and what a rule leaves of them to ``grammar``.
* ``ruled`` is what an answer must keep to: a ``schema``, a ``regex``, or a grammar (``gbnf``, ``lark``); the last two
  become a ``pattern`` and ``productions``, from which each library's own form is written.
* ``engine`` owns that thread and decides who gets on next.
* ``text`` makes text of token ids so that a cut between any two pieces can be gone on with exactly.
* ``server`` is the HTTP application: OpenAI's API, with token ids in the form that vLLM uses.
* ``model_dir`` says before anything is loaded why it cannot be.
* ``embedded`` is the parent's side: it keeps an engine running beside a gateway.

Nothing here is imported by a gateway that serves no local model, and the libraries are imported only where
they are used: by the process that runs a model.
"""

import sys

# OpenVINO and NNCF tell their makers over the network how they are used, the latter without having asked.  Where this
# package is not to be found they do without it.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
