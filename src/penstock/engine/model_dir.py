"""Why a model cannot be loaded from a directory, said before anything of it is.

Nothing here needs a library of inference, and nothing that is found is executed: weights are read only where they say
how long they ought to be.  Pickled weights, which run whatever code their author put into them when they are
loaded, are refused whatever they contain.
"""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec

from penstock.engine.memory import available_bytes
from penstock.errors import ModelUnusable
from penstock.messages import JSON

Format: TypeAlias = Literal["openvino", "safetensors", "onnx"]

_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib")
_IR = "openvino_model.xml"
_GENAI = "genai_config.json"
_TOKENIZER = ("openvino_tokenizer.xml", "openvino_tokenizer.bin")
_DETOKENIZER = ("openvino_detokenizer.xml", "openvino_detokenizer.bin")
_DATA = re.compile(rb"<data\b[^>]*>")
_KIND = re.compile(rb'\belement_type="(\w+)"')
_ROUNDED = frozenset({b"u2", b"u4", b"i4", b"u8", b"i8", b"nf4"})  # that weights are rounded to
_HALVES = frozenset({b"f16", b"bf16"})
_HALF_TENSORS = frozenset({"F16", "BF16"})
_PLACE = re.compile(rb'\b(offset|size)="(\d+)"')
_READ = 1 << 20  # bytes of an IR at a time
_LONGEST_TAG = 65_536
# https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md
_POINTER = b"version https://git-lfs.github.com/spec/"
# A layer of a decoder or an encoder, as transformers stores it; not those of a part that looks or listens.
_LAYER = re.compile(
    r"(?:model\.|transformer\.|bert\.|roberta\.|gpt_neox\.)?(?:layers|h|encoder\.layer)\.(\d{1,6})\."
)
_LONGEST_HEADER = 100_000_000  # of a safetensors file; as the format's own reader has it
RUNTIME_BYTES = 250_000_000  # what library and tokenizer take beside a model, measured with a small one


class ModelDir(msgspec.Struct, frozen=True):
    """A directory whose files are whole.

    ``config`` is the model's own ``config.json``, of an ONNX graph ``genai_config.json``.  ``cache_bytes``: what keys and values of one token take at most,
    each number at 2 bytes; 0: it cannot be told.  ``embeds``: it is there to make embeddings, and not to write.
    ``rounded``: OpenVINO's weights, or some of them, are integers.  ``half_bytes``: what of ``weight_bytes`` are numbers of
    2 bytes, which have 4 where they are computed in fp32; scales of what is rounded are left out.
    """

    path: Path
    format: Format
    weight_bytes: int
    config: dict[str, JSON]
    context: int
    cache_bytes: int
    embeds: bool = False
    rounded: bool = False
    half_bytes: int = 0

    @property
    def architecture(self) -> str:
        names = self.config.get("architectures")
        model = self.config.get("model")
        if self.format == "onnx" and isinstance(model, dict):
            return str(model.get("type", "unknown"))
        return str(names[0]) if isinstance(names, list) and names else "unknown"


def inspect(path: Path, wanted: Format | None = None) -> ModelDir:
    """What is in a model's directory.

    :param wanted: the form that is looked for; by itself an ONNX graph, or OpenVINO's, and else what is there
    :raises penstock.errors.ModelUnusable: it cannot be loaded; the message names file and remedy
    """
    try:
        names = {entry.name for entry in path.iterdir()}
    except NotADirectoryError:
        raise ModelUnusable(f"{path} is a file: name the directory that it is in") from None
    except FileNotFoundError:
        raise ModelUnusable(
            f"there is no directory {path}: check the path, or copy the model there"
        ) from None
    except OSError as error:
        raise ModelUnusable(f"{path} cannot be read: {error.strerror}") from None
    if _GENAI in names and wanted in {None, "onnx"}:
        return _onnx(path, names)
    if _GENAI in names and wanted is not None and "config.json" not in names:
        raise _of_another_backend(path)
    config = _config(path / "config.json")
    _check_itself(path / "tokenizer.json")
    context = _whole(config.get("max_position_embeddings"))
    embeds = "modules.json" in names or _is_headless(config)
    if _IR in names and wanted in {None, "openvino"}:
        rounded, halves = _check_ir(path, names, _TOKENIZER if embeds else _TOKENIZER + _DETOKENIZER)
        weights = (path / _IR).with_suffix(".bin").stat().st_size
        told = (config, context, _cache_bytes(config), embeds, rounded, halves)
        return ModelDir(path, "openvino", weights, *told)
    tensors = sorted(name for name in names if name.endswith(".safetensors"))
    if tensors and wanted in {None, "safetensors"}:
        weights, halves = _check_safetensors(path, names, tensors, config)
        told = (config, context, _cache_bytes(config), embeds, False, halves)
        return ModelDir(path, "safetensors", weights, *told)
    if _IR in names or tensors or _GENAI in names:
        raise _of_another_backend(path)
    pickled = sorted(name for name in names if name.endswith(_PICKLED) and not name.startswith("openvino_"))
    if pickled:
        raise ModelUnusable(
            f"{path / pickled[0]} is pickled: loading it would run any code that is in it, so it never is; "
            "get the model as safetensors, or convert it on a machine that you can do without"
        )
    if any(name.endswith(".gguf") for name in names):
        raise ModelUnusable(f"{path} holds GGUF weights: serve it with llama.cpp or Ollama, as an upstream")
    raise ModelUnusable(
        f"{path} has no weights: neither {_IR} nor a .safetensors file is there; "
        "copy the whole directory, large files of a Git repository (`git lfs pull`) included"
    )


def _of_another_backend(path: Path) -> ModelUnusable:
    return ModelUnusable(
        f"{path} holds no weights for the backend that was asked for: leave the backend out, or convert the model"
    )


def check_memory(model: ModelDir, cache: int, available: int | None = None) -> None:
    """Whether model and cache find room.

    :param cache: bytes for keys and values
    :param available: bytes; what is free here, if not given
    :raises penstock.errors.ModelUnusable: they do not
    """
    free = available_bytes() if available is None else available
    if free is None:
        return
    needed = model.weight_bytes + cache + RUNTIME_BYTES
    if needed > free:
        raise ModelUnusable(
            f"{model.path} needs about {_gb(needed)} ({_gb(model.weight_bytes)} of weights, {_gb(cache)} for keys and "
            f"values), and {_gb(free)} are free: take a smaller or more quantized model, a smaller cache, or more memory"
        )


def in_fp32(model: ModelDir) -> ModelDir:
    """As large as it is once it is loaded by who computes in fp32."""
    return msgspec.structs.replace(model, weight_bytes=model.weight_bytes + model.half_bytes)


def _check_itself(file: Path) -> None:
    """Whether what is there is the file itself; one that is not there at all is told by who needs it.

    :raises penstock.errors.ModelUnusable: it is a link that leads nowhere, or a pointer of Git LFS
    """
    try:
        with file.open("rb") as opened:
            head = opened.read(len(_POINTER))
    except OSError:
        if file.is_symlink() and not file.exists():
            raise ModelUnusable(
                f"{file} is a link that leads nowhere: copy what it led to, too (`cp -rL` follows links)"
            ) from None
        return
    if head == _POINTER:
        raise ModelUnusable(
            f"{file} is a pointer of Git LFS in the place of the file: run `git lfs pull` where it came from"
        )


# ---- config.json -----------------------------------------------------------------------------------


def _config(file: Path) -> dict[str, JSON]:
    _check_itself(file)
    try:
        config = msgspec.json.decode(file.read_bytes())
    except FileNotFoundError:
        raise ModelUnusable(
            f"{file} is missing: it says what the model is; copy the whole directory"
        ) from None
    except OSError as error:
        raise ModelUnusable(f"{file} cannot be read: {error.strerror}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ModelUnusable(f"{file} is no JSON ({error}): copy it again") from None
    if not isinstance(config, dict):
        raise ModelUnusable(f"{file} is no JSON object: copy it again")
    return config


def _is_headless(config: dict[str, JSON]) -> bool:
    """Whether its architecture ends with hidden states: ``BertModel``, and not ``GPT2LMHeadModel``."""
    names = config.get("architectures")
    return isinstance(names, list) and any(
        isinstance(name, str) and name.endswith("Model") and not name.endswith("LMHeadModel")
        for name in names
    )


def _whole(value: JSON) -> int:
    return value if isinstance(value, int) and value > 0 else 0


def _cache_bytes(config: dict[str, JSON]) -> int:
    layers, heads = _whole(config.get("num_hidden_layers")), _whole(config.get("num_attention_heads"))
    shared = _whole(config.get("num_key_value_heads")) or heads
    size = _whole(config.get("head_dim")) or (_whole(config.get("hidden_size")) // heads if heads else 0)
    return 2 * layers * shared * size * 2


# ---- ONNX Runtime GenAI's: a graph, its weights beside it, and what is known of both -----------------


def _onnx(path: Path, names: set[str]) -> ModelDir:
    file = path / _GENAI
    config = _config(file)
    try:
        model = config["model"]
        decoder = model["decoder"]
        graph = str(decoder["filename"])
        layers, heads = int(decoder["num_hidden_layers"]), int(decoder["num_key_value_heads"])
        cache, context = 2 * layers * heads * int(decoder["head_size"]) * 2, int(model["context_length"])
    except (KeyError, TypeError, ValueError) as error:
        raise ModelUnusable(
            f"{file} says nothing of a model that writes text ({error}): make it anew with `penstock optimize export`"
        ) from None
    if Path(graph).name != graph or graph not in names:
        raise ModelUnusable(f"{path / graph} is missing, which {_GENAI} names: copy it, too")
    # A graph of a few megabytes is one whose weights lie in a file beside it.
    files = [path / name for name in names if name.startswith(graph)]
    for each in (*files, path / "tokenizer.json"):
        _check_itself(each)
    weights = sum(each.stat().st_size for each in files)
    return ModelDir(path, "onnx", weights, config, context, cache)


# ---- OpenVINO's IR: a graph in XML, and its constants in one file ----------------------------------


def _check_ir(path: Path, names: set[str], parts: tuple[str, ...]) -> tuple[bool, int]:
    """Whether weights of it are rounded; if not, the bytes of those that are in fp16 or bf16."""
    rounded, halves = False, 0
    graph = path / _IR
    if graph.with_suffix(".bin").name not in names:
        raise ModelUnusable(
            f"{graph.with_suffix('.bin')} is missing: it holds the weights of {_IR}; copy it, too"
        )
    for name in parts:
        # An own check: a tokenizer without constants has no .bin of any length, but it has one.
        if name not in names:
            raise ModelUnusable(
                f"{path / name} is missing: without it there is no text; `convert_tokenizer {path} "
                f"--with-detokenizer -o {path}` makes it (package openvino-tokenizers)"
            )
    for name in (_IR, *(part for part in parts if part.endswith(".xml"))):
        file = path / name
        _check_itself(file)
        _check_itself(file.with_suffix(".bin"))
        end, sizes = _constants(file)
        if name == _IR:
            rounded = not sizes.keys().isdisjoint(_ROUNDED)
            halves = 0 if rounded else sum(size for kind, size in sizes.items() if kind in _HALVES)
        has = file.with_suffix(".bin").stat().st_size
        if has < end:
            raise ModelUnusable(
                f"{file.with_suffix('.bin')} is cut off: it has {has} of at least {end} bytes; copy it again"
            )
    return rounded, halves


def _constants(file: Path) -> tuple[int, dict[bytes, int]]:
    """Where the last constant of a graph ends in its file of weights, and the bytes of those of each type."""
    places: dict[int, tuple[int, bytes]] = {}  # size and type of what begins there
    rest = b""
    closed = False
    try:
        with file.open("rb") as graph:
            while block := graph.read(_READ):
                text = rest + block
                for tag in _DATA.findall(text):
                    found = dict(_PLACE.findall(tag))
                    if len(found) == 2:
                        kind = _KIND.search(tag)
                        size = int(found[b"size"])
                        place = int(found[b"offset"])
                        # What is empty may begin where something else does.
                        places[place] = max(places.get(place, (0, b"")), (size, kind[1] if kind else b""))
                # A tag may go on in the next block; what is read twice changes nothing.
                rest = text[-_LONGEST_TAG:]
                closed = b"</net>" in rest
    except OSError as error:
        raise ModelUnusable(f"{file} cannot be read: {error.strerror}") from None
    if not closed:
        raise ModelUnusable(f"{file} is cut off: its last tag is missing; copy it again")
    sizes: dict[bytes, int] = {}
    for size, of_type in places.values():
        sizes[of_type] = sizes.get(of_type, 0) + size
    return max((offset + size for offset, (size, _) in places.items()), default=0), sizes


# ---- safetensors: 8 bytes of length, a header in JSON, the tensors ---------------------------------


def _check_safetensors(
    path: Path, names: set[str], tensors: list[str], config: dict[str, JSON]
) -> tuple[int, int]:
    """Bytes of all of them, and of the numbers in fp16 or bf16 among these."""
    for name in tensors:
        _check_itself(path / name)
    for name in sorted(name for name in names if name.endswith(".safetensors.index.json")):
        for shard in _shards(path / name):
            if shard not in names:
                raise ModelUnusable(f"{path / shard} is missing, which {name} names: copy it, too")
    found = [_check_tensors(path / name) for name in tensors]
    _check_layers(path, config, max(layers for _, _, layers in found))
    return sum(size for size, _, _ in found), sum(halves for _, halves, _ in found)


def _check_layers(path: Path, config: dict[str, JSON], stored: int) -> None:
    """Who loads them leaves out what config.json does not know of, and says other things than the model would."""
    layers = _whole(config.get("num_hidden_layers")) or _whole(config.get("n_layer"))
    # Layers that guess tokens ahead are stored behind the others, and belong to no answer (DeepSeek, GLM).
    known = layers + _whole(config.get("num_nextn_predict_layers"))
    if layers and stored > known:
        raise ModelUnusable(
            f"{path / 'config.json'} says {layers} layers, and {stored} are stored: "
            "get the config.json that belongs to these weights, or write the model anew without the others"
        )


def _shards(index: Path) -> list[str]:
    try:
        found = msgspec.json.decode(index.read_bytes())["weight_map"].values()
        return sorted({str(name) for name in found})
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, TypeError, KeyError, AttributeError) as error:
        raise ModelUnusable(f"{index} is no index of weights ({error}): copy it again") from None


def _check_tensors(file: Path) -> tuple[int, int, int]:
    """How long a file is, how much of it is in 2 bytes each, and the layers up to the last that it has a part of."""
    try:
        has = file.stat().st_size
        with file.open("rb") as tensors:
            head = tensors.read(8)
            length = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
            if length > min(has - 8, _LONGEST_HEADER) or not length:
                raise ModelUnusable(f"{file} is cut off within its header, or no safetensors: copy it again")
            header = msgspec.json.decode(tensors.read(length))
            parts = [part for name, part in header.items() if name != "__metadata__"]
            end = 8 + length + max((part["data_offsets"][1] for part in parts), default=0)
            places = (part["data_offsets"] for part in parts if part.get("dtype") in _HALF_TENSORS)
            halves = sum(behind - start for start, behind in places)
            layers = max((1 + int(layer[1]) for name in header if (layer := _LAYER.match(name))), default=0)
    except OSError as error:
        raise ModelUnusable(f"{file} cannot be read: {error.strerror}") from None
    except (
        msgspec.DecodeError,
        UnicodeDecodeError,
        TypeError,
        KeyError,
        IndexError,
        AttributeError,
    ) as error:
        raise ModelUnusable(f"{file} has no header of safetensors ({error}): copy it again") from None
    if has != end:
        raise ModelUnusable(f"{file} is cut off: it has {has} of {end} bytes; copy it again")
    return has, halves, layers


def _gb(number: int) -> str:
    return f"{number / 1e9:.1f} GB" if number >= 1e8 else f"{number / 1e6:.0f} MB"
