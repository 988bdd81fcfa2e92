"""Model directories, written byte by byte: no library is needed to be refused, or to be resumed."""

from __future__ import annotations

import json
import struct


def safetensors(tensors):
    """A file's bytes; ``tensors`` maps names to (dtype, shape, bytes)."""
    header, data = (
        {"__metadata__": {"format": "pt", "about": "a tensor of eight numbers, for the tests"}},
        b"",
    )
    for name, (dtype, shape, content) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def write_model(path, *, content=b"\x01\x02\x03\x04" * 8, config=None):
    """One tensor and a configuration."""
    path.mkdir(parents=True, exist_ok=True)
    told = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", **(config or {})}
    (path / "config.json").write_text(json.dumps(told))
    (path / "model.safetensors").write_bytes(safetensors({"w": ("F32", [len(content) // 4], content)}))
    return path
