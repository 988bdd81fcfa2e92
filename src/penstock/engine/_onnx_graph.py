"""A model's graph for ONNX Runtime, and the keys and values of all generations that it computes.

The graphs of ONNX Runtime GenAI's builder take past keys and values and give back longer ones.  Their attention
(GroupQueryAttention) writes into the past itself where both are the same memory, and each row of a batch may have
a length of its own.  So the rows of one array are the places of the generations: those that are under way are the
first of them, and a step computes these rows where they lie.

Every row is as long as the context.  That is address space: memory is taken by the pages that have been written,
which is how the operating system keeps what others keep in blocks of their own.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt
import onnxruntime

from penstock.engine._drawing import Logits

_TYPES: dict[str, Any] = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
_UNRESERVED = getattr(mmap, "MAP_NORESERVE", 0x4000)  # Python has no name for it before 3.13

Ids: TypeAlias = npt.NDArray[np.int64]


class Decoder(msgspec.Struct, frozen=True):
    """The part of ``genai_config.json`` that tells of the graph."""

    filename: str
    head_size: int
    num_hidden_layers: int
    num_key_value_heads: int
    inputs: dict[str, str]
    outputs: dict[str, str]
    sliding_window: dict[str, Any] | None = None

    def caches(self) -> list[tuple[str, str]]:
        """The names of past and present of each array of keys, and of values."""
        return [
            (self.inputs[f"past_{kind}_names"] % layer, self.outputs[f"present_{kind}_names"] % layer)
            for layer in range(self.num_hidden_layers)
            for kind in ("key", "value")
        ]


class Graph:
    """Computes rows.

    :param rows: places for generations
    :param context: tokens of one, at most
    :param threads: that compute; 0: as many as there are cores
    :raises ValueError: it wants what it is not given here
    :raises OSError: there is no address space for so many rows
    """

    def __init__(self, path: Path, decoder: Decoder, rows: int, context: int, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        # Threads that wait by turning in circles take from whoever else computes here.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(
            str(path / decoder.filename), options, providers=["CPUExecutionProvider"]
        )
        self._caches = decoder.caches()
        types = {each.name: each.type for each in self._session.get_inputs()}
        self._names = {
            kind: decoder.inputs[kind]
            for kind in ("input_ids", "attention_mask", "position_ids")
            if decoder.inputs.get(kind) in types
        }
        unknown = types.keys() - {past for past, _ in self._caches} - set(self._names.values())
        if unknown or "attention_mask" not in self._names or decoder.sliding_window is not None:
            raise ValueError(f"its graph is of another kind ({min(unknown, default='a window that slides')})")
        self._type = _TYPES[types[self._caches[0][0]]]
        self._logits = decoder.outputs["logits"]
        told = next(each for each in self._session.get_outputs() if each.name == self._logits)
        self._told_type = _TYPES[told.type]
        # Logits of each token that is read, and not of the last alone.
        self._tells_all: bool = told.shape[1] != 1
        self._vocabulary = int(told.shape[2])
        self._shape = (rows, decoder.num_key_value_heads, context, decoder.head_size)
        one = int(np.prod(self._shape)) * np.dtype(self._type).itemsize
        self._memory = [
            mmap.mmap(-1, one, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _UNRESERVED)
            for _ in self._caches
        ]
        self._kept = [np.frombuffer(each, self._type).reshape(self._shape) for each in self._memory]
        self._written = [0] * rows  # tokens for which memory has been taken
        # Of the last step: how many rows, and to what.
        self._bound: tuple[int, Any, Logits] = (
            0,
            None,
            np.empty(0),
        )

    def __repr__(self) -> str:
        return f"<Graph {self._shape[0]} rows, {self.written} tokens written>"

    @property
    def tells_all(self) -> bool:
        """Whether there are logits after each token that is read, and not after the last alone."""
        return self._tells_all

    @property
    def written(self) -> int:
        """Tokens for whose keys and values memory is taken."""
        return sum(self._written)

    def token_bytes(self) -> int:
        """Of one token's keys and values."""
        _, heads, _, size = self._shape
        return int(len(self._kept) * heads * size * np.dtype(self._type).itemsize)

    def read(self, row: int, ids: Sequence[int], known: int) -> Logits:
        """Compute the next part of a row's text.

        :param known: tokens of it before these
        :returns: the logits after each of them, or after the last alone, (tokens, vocabulary)
        """
        binding, told = self._binding(row, 1, len(ids) if self._tells_all else 1)
        self._run(binding, np.array([ids], np.int64), [known])
        self._write(row, known + len(ids))
        each: Logits = told[0]
        return each

    def step(self, tokens: Sequence[int], known: Sequence[int]) -> Logits:
        """Compute one more token of each of the first rows.

        :param known: tokens of each before it
        :returns: (rows, vocabulary), until the next step
        """
        rows, binding, told = self._bound
        if rows != len(tokens):
            rows, binding, told = self._bound = len(tokens), *self._binding(0, len(tokens), 1)
        self._run(binding, np.array(tokens, np.int64)[:, None], known)
        for row in range(rows):
            self._write(row, known[row] + 1)
        last: Logits = told[:, -1]
        return last

    def alone(self, ids: Sequence[int]) -> Logits:
        """The logits after a text that is computed by itself, with nothing kept."""
        _, heads, _, size = self._shape
        nothing = np.zeros((1, heads, 0, size), self._type)
        given = {past: nothing for past, _ in self._caches} | self._given(np.array([ids], np.int64), [0])
        told: Logits = self._session.run([self._logits], given)[0]
        last: Logits = told[0, -1]
        return last

    def move(self, row: int, to: int, known: int) -> None:
        """Another row for a text of ``known`` tokens."""
        for kept in self._kept:
            kept[to, :, :known] = kept[row, :, :known]
        self._write(to, known)

    def release(self, first: int) -> None:
        """Give back the memory of the rows from ``first`` on, which nobody uses."""
        if not any(self._written[first:]):
            return
        rows = self._shape[0]
        one = len(self._memory[0]) // rows
        begin = -(-first * one // mmap.PAGESIZE) * mmap.PAGESIZE  # the page that others are in, too, stays
        if begin >= rows * one:
            return
        for memory in self._memory:
            memory.madvise(mmap.MADV_DONTNEED, begin, rows * one - begin)
        self._written[first:] = [0] * (rows - first)

    def _write(self, row: int, tokens: int) -> None:
        self._written[row] = max(self._written[row], tokens)

    def _binding(self, first: int, count: int, told: int) -> tuple[Any, Logits]:
        """Rows that are computed, and where their logits will be, of so many tokens of each."""
        binding = self._session.io_binding()
        for (past, present), kept in zip(self._caches, self._kept, strict=True):
            rows = kept[first : first + count]
            place = ("cpu", 0, self._type, rows.shape, rows.ctypes.data)
            binding.bind_input(past, *place)
            binding.bind_output(present, *place)
        logits = np.empty((count, told, self._vocabulary), self._told_type)
        binding.bind_output(self._logits, "cpu", 0, self._told_type, logits.shape, logits.ctypes.data)
        return binding, logits

    def _run(self, binding: Any, ids: Ids, known: Sequence[int]) -> None:
        for name, values in self._given(ids, known).items():
            binding.bind_cpu_input(name, values)
        self._session.run_with_iobinding(binding)

    def _given(self, ids: Ids, known: Sequence[int]) -> dict[str, Ids]:
        """Besides keys and values; ``ids``: as many new ones for each row."""
        before = np.array(known, np.int64)[:, None]
        new = ids.shape[1]
        length = int(np.max(before)) + new
        given = {
            "input_ids": ids,
            # How long each row is; what is there behind its end is not looked at.
            "attention_mask": (np.arange(length) < before + new).astype(np.int64),
            "position_ids": before + np.arange(new),
        }
        return {name: given[kind] for kind, name in self._names.items()}


__all__ = ["Decoder", "Graph"]
