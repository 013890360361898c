"""Seeded damage to model files: fields of the header, tensors, lengths and bits."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable
from typing import Any

HOSTILE: tuple[Any, ...] = (
    *(0, -1, 1, 2, 3, 10**3, 2**31, 2**53 + 1, 10**12, 10**17, 2**63, 10**400),
    *(-5, -(10**30), 0.5, -0.5, 1.5, 1e17, 1e308, -1e308, float("nan"), float("inf"), -float("inf")),
    *("", "auto", "own", "none", "x", "9" * 40, "\x1b[2J\x07", "\u202eabc", "a\0b", "\ud800", "/dev/zero", "n" * 5_000),
    *(None, True, False, [], {}, [[]], [None], [0], [1, 2, 3], ["/dev/zero"], [""], {"": 0}, {"a": {"b": []}}),
    *([0] * 3_000, "字" * 3_000),
)
TYPES = ("F64", "F32", "F16", "BF16", "I64", "I32", "U8", "U16", "U32", "BOOL", "F128", "")


class File:
    """A model file in its three parts: the safetensors tree, charrnn's record in it, the bytes of the tensors."""

    def __init__(self, raw: bytes) -> None:
        length = struct.unpack("<Q", raw[:8])[0]
        self.tree: dict[str, Any] = json.loads(raw[8 : 8 + length])
        self.content: Any = json.loads(self.tree["__metadata__"]["charrnn"])
        self.tensors = raw[8 + length :]

    def tensor_names(self) -> list[str]:
        """List the tensors that are still described as such."""
        return [name for name, entry in self.tree.items() if isinstance(entry, dict) and "data_offsets" in entry]

    def to_bytes(self) -> bytes:
        self.tree["__metadata__"] = {"charrnn": json.dumps(self.content)}
        raw = json.dumps(self.tree).encode()
        return struct.pack("<Q", len(raw)) + raw + self.tensors


def mutate(raw: bytes, draw: random.Random) -> tuple[str, bytes]:
    """Damage a file in one way, or in a few of the same kind; return what was done and the bytes."""
    kind = draw.choice(tuple(MUTATIONS))
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        raw = MUTATIONS[kind](raw, draw)
    return kind, raw


def _header_field(raw: bytes, draw: random.Random) -> bytes:
    """Change one field of charrnn's record, at any depth."""
    file = _file(raw)
    if file is None:
        return raw
    owner, key = draw.choice(list(_places(file.content)))
    action = draw.choice(("replace", "replace", "replace", "scale", "remove", "rename"))
    value = owner[key]
    if action == "replace":
        owner[key] = draw.choice(HOSTILE)
    elif action == "scale" and isinstance(value, int | float):
        owner[key] = draw.choice((-value, value + 1, value - 1, value * 10**6, value / 3))
    elif action == "rename" and isinstance(owner, dict):
        owner[f"{key}s"] = owner.pop(key)
    else:
        del owner[key]
    return file.to_bytes()


def _tensor(raw: bytes, draw: random.Random) -> bytes:
    """Change what the safetensors header says of one tensor, or which tensors there are."""
    file = _file(raw)
    names = [] if file is None else file.tensor_names()
    if file is None or not names:
        return raw
    name = draw.choice(names)
    entry = file.tree[name]
    action = draw.choice(("type", "shape", "offsets", "remove", "rename", "swap", "empty", "garble"))
    if action == "type":
        entry["dtype"] = draw.choice(TYPES)
    elif action == "shape":
        entry["shape"] = draw.choice(([], [0], [-1, -1], [2**40, 2**40], [1] * 70, entry.get("shape", [])[::-1]))
    elif action == "offsets":
        entry["data_offsets"] = draw.choice(([0, 0], [0, 2**62], [-8, 8], [8, 0], [0], entry["data_offsets"][::-1]))
    elif action == "remove":
        del file.tree[name]
    elif action == "rename":
        file.tree[draw.choice((f"{name}x", "training/x", "training/optimizer/99/step", "grams/9/counts"))] = entry
        del file.tree[name]
    elif action == "swap":
        other = draw.choice(names)
        file.tree[name], file.tree[other] = file.tree[other], file.tree[name]
    elif action == "empty":
        prefix = draw.choice(("", "training/", "training/optimizer/"))
        for number in range(draw.choice((1, 1_000, 20_000))):
            file.tree[f"{prefix}{number}"] = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    else:
        file.tree[name] = draw.choice((None, 3, [], {}, {"dtype": 3}, "F32"))
    return file.to_bytes()


def _length(raw: bytes, draw: random.Random) -> bytes:
    """Cut the file, add to it, or give its header another length."""
    action = draw.choice(("cut", "add", "header"))
    if action == "cut":
        return raw[: draw.randrange(len(raw) + 1)]
    if action == "add":
        return raw + bytes(draw.choice((1, 4, 8, 4_096)))
    length = struct.unpack("<Q", raw[:8].ljust(8, b"\0"))[0]
    other = draw.choice((0, 1, length - 1, length + 1, length + 8, 2**31, 2**63, 2**64 - 1))
    return struct.pack("<Q", min(max(0, other), 2**64 - 1)) + raw[8:]


def _bits(raw: bytes, draw: random.Random) -> bytes:
    """Flip some bits anywhere, mostly in the header's text or in the tensors, whichever is drawn."""
    damaged = bytearray(raw)
    start = struct.unpack("<Q", raw[:8])[0] + 8 if len(raw) >= 8 else 0
    low, high = draw.choice(((0, len(raw)), (0, min(start, len(raw))), (min(start, len(raw)), len(raw))))
    for _ in range(draw.choice((1, 1, 3, 30))):
        if low < high:
            damaged[draw.randrange(low, high)] ^= 1 << draw.randrange(8)
    return bytes(damaged)


def _values(raw: bytes, draw: random.Random) -> bytes:
    """Set numbers of a tensor to what no training gives."""
    file = _file(raw)
    entries = [] if file is None else [file.tree[name] for name in file.tensor_names()]
    floats = [entry for entry in entries if entry.get("dtype") == "F32" and len(entry["data_offsets"]) == 2]
    if file is None or not floats:
        return raw
    first, last = draw.choice(floats)["data_offsets"]
    if not 0 <= first <= last - 4 <= len(file.tensors) - 4:
        return raw
    place = draw.randrange(first, last - 3, 4)
    value = struct.pack("<f", draw.choice((float("nan"), float("inf"), -float("inf"), 3e38, -3e38, 1e20, 1e-45)))
    file.tensors = file.tensors[:place] + value + file.tensors[place + 4 :]
    return file.to_bytes()


MUTATIONS: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "header": _header_field,
    "tensor": _tensor,
    "length": _length,
    "bits": _bits,
    "values": _values,
}


def _file(raw: bytes) -> File | None:
    """Return a file in its parts; None where damage done before leaves none."""
    try:
        return File(raw)
    except (ValueError, KeyError, TypeError, struct.error):
        return None


def _places(value: Any) -> list[tuple[Any, Any]]:
    """List every place of a tree: the dictionary or list, and the key or index in it."""
    places: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        for key, inner in value.items():
            places += [(value, key), *_places(inner)]
    elif isinstance(value, list):
        for index, inner in enumerate(value[:20]):
            places += [(value, index), *_places(inner)]
    return places
