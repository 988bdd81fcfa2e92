"""Models of some lines each: a batch costs 10 ms, and what comes out shows what went in."""

from __future__ import annotations

EMBED = '''
import json, time
import numpy as np
import triton_python_backend_utils as triton


class TritonPythonModel:
    """A vector of: sum of the tokens, their number, the padded length, and the size of the batch."""

    def initialize(self, args):
        self.batched = json.loads(args["model_config"])["max_batch_size"] > 0

    def execute(self, requests):
        # Without a batch dimension nothing can be run together, whatever Triton hands over at once.
        time.sleep(0.01 if self.batched else 0.01 * len(requests))
        total = sum(len(np.atleast_2d(triton.get_input_tensor_by_name(each, "input_ids").as_numpy())) for each in requests)
        answers = []
        for request in requests:
            ids = np.atleast_2d(triton.get_input_tensor_by_name(request, "input_ids").as_numpy())
            mask = np.atleast_2d(triton.get_input_tensor_by_name(request, "attention_mask").as_numpy())
            rows = [[(row * m).sum(), m.sum(), len(row), total] for row, m in zip(ids, mask)]
            out = triton.Tensor("embedding", np.array(rows if self.batched else rows[0], dtype=np.float32))
            answers.append(triton.InferenceResponse(output_tensors=[out]))
        return answers
'''

GENERATE = '''
import time
import numpy as np
import triton_python_backend_utils as triton


def column(name, value, kind):
    return triton.Tensor(name, np.array([[value]], dtype=kind))


class TritonPythonModel:
    """Says the prompt's words again, one at a time; "fail" in the middle, and "slow" very slowly."""

    def execute(self, requests):
        for request in requests:
            sender = request.get_response_sender()
            prompt = triton.get_input_tensor_by_name(request, "text_input").as_numpy()[0, 0].decode()
            most = triton.get_input_tensor_by_name(request, "max_tokens")
            most = int(most.as_numpy()[0, 0]) if most is not None else 1000
            words = prompt.split()
            said = words[:most]
            for number, word in enumerate(said):
                if request.is_cancelled():
                    break
                if word == "fail":
                    error = triton.TritonError("the model failed at " + str(number))
                    sender.send(triton.InferenceResponse(output_tensors=[], error=error))
                    break
                if word == "slow":
                    time.sleep(0.2)
                last = number == len(said) - 1
                finish = ("stop" if len(said) == len(words) else "length") if last else ""
                tensors = [
                    column("text_output", (word + " ").encode(), np.object_),
                    column("finish_reason", finish.encode(), np.object_),
                    column("prompt_tokens", len(words), np.int32),
                    column("completion_tokens", 1, np.int32),
                ]
                sender.send(triton.InferenceResponse(output_tensors=tensors))
            sender.send(flags=triton.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
'''

EMBED_CONFIG = """name: "{name}"
backend: "python"
max_batch_size: {batch}
input [
  {{ name: "input_ids" data_type: TYPE_INT64 dims: [ -1 ] }},
  {{ name: "attention_mask" data_type: TYPE_INT64 dims: [ -1 ] }}
]
output [ {{ name: "embedding" data_type: TYPE_FP32 dims: [ 4 ] }} ]
instance_group [ {{ kind: KIND_CPU count: 1 }} ]
{more}
"""

GENERATE_CONFIG = """name: "words"
backend: "python"
max_batch_size: 8
input [
  { name: "text_input" data_type: TYPE_STRING dims: [ 1 ] },
  { name: "max_tokens" data_type: TYPE_INT32 dims: [ 1 ] optional: true },
  { name: "stream" data_type: TYPE_BOOL dims: [ 1 ] optional: true }
]
output [
  { name: "text_output" data_type: TYPE_STRING dims: [ 1 ] },
  { name: "finish_reason" data_type: TYPE_STRING dims: [ 1 ] },
  { name: "prompt_tokens" data_type: TYPE_INT32 dims: [ 1 ] },
  { name: "completion_tokens" data_type: TYPE_INT32 dims: [ 1 ] }
]
model_transaction_policy { decoupled: true }
instance_group [ { kind: KIND_CPU count: 1 } ]
"""

DYNAMIC = """dynamic_batching {
  max_queue_delay_microseconds: 5000
  preferred_batch_size: [ 8, 16 ]
  priority_levels: 2
  default_priority_level: 2
  default_queue_policy {
    allow_timeout_override: true default_timeout_microseconds: 60000000 timeout_action: REJECT
  }
}"""


def write_models(folder):
    """``embed`` (dynamic batching), ``single`` (one call at a time) and ``words`` (a stream)."""
    for name, code, config in (
        ("embed", EMBED, EMBED_CONFIG.format(name="embed", batch=16, more=DYNAMIC)),
        ("single", EMBED, EMBED_CONFIG.format(name="single", batch=0, more="")),
        ("words", GENERATE, GENERATE_CONFIG),
    ):
        (folder / name / "1").mkdir(parents=True)
        (folder / name / "1" / "model.py").write_text(code)
        (folder / name / "config.pbtxt").write_text(config)
