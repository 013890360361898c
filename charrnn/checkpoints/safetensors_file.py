"""The format of model files: safetensors, a JSON header followed by the tensors, read and written without torch.
Nothing in a file is ever executed, and every size in its header is checked against the file before it is used.
Knows the layout and the vocabulary; what settings and scores mean is left to `model_file`."""

from __future__ import annotations

import hashlib
import json
import math
import os
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from charrnn.atomic_files import atomic_writer
from charrnn.data.vocabulary import Vocabulary
from charrnn.errors import CharRNNError

FORMAT = 2
EXTRA = "training/"  # prefix of the tensors that only resuming needs
GRAMS = "grams/"  # prefix of an n-gram model's tables
_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "BOOL": 1}
_BYTES |= {"U64": 8, "U32": 4, "U16": 2, "U8": 1}
_FLOATS: dict[str, np.dtype[Any]] = {"F64": np.dtype("<f8"), "F32": np.dtype("<f4")}  # types of weights
_COUNTS: dict[str, np.dtype[Any]] = {"U8": np.dtype("u1"), "U16": np.dtype("<u2"), "U32": np.dtype("<u4")}  # of tables
# of tensors to write, by torch's and NumPy's names, in the order in which the safetensors library writes them
_NAMES = {"uint64": "U64", "int64": "I64", "float64": "F64", "float32": "F32", "uint32": "U32", "int32": "I32"}
_NAMES |= {"uint16": "U16", "int16": "I16", "int8": "I8", "uint8": "U8"}
_MAX_HEADER = 100_000_000  # bytes
_PIECE = 1 << 20  # bytes hashed at a time
Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Contents:
    """What a file contains, checked."""

    path: Path
    content: dict[str, Any]  # charrnn's own record
    shapes: Shapes  # of all tensors
    locations: dict[str, tuple[str, int]]  # the type of each tensor, and the offset of its bytes in the file
    arrays: dict[str, npt.NDArray[Any]] = field(default_factory=dict)  # the model's own tensors, if requested

    @property
    def weights(self) -> Shapes:
        """Return the shapes of the model's own tensors."""
        return {name: shape for name, shape in self.shapes.items() if not name.startswith(EXTRA)}

    def vocabulary(self) -> Vocabulary:
        """Return the vocabulary. Raises KeyError, TypeError or ValueError if it is missing or invalid."""
        recorded = self.content["vocabulary"]
        characters = str(recorded["characters"])
        characters.encode()  # a lone surrogate is a ValueError
        if "\n" not in characters or len(set(characters)) != len(characters):
            raise ValueError("vocabulary")
        seen, novel, unseen = int(recorded["seen"]), int(recorded["novel"]), int(recorded.get("unseen", 0))
        if not 0 <= novel <= seen or seen < 1 or not 0 <= unseen < len(characters):
            raise ValueError("vocabulary counts")
        return Vocabulary(characters, seen, novel, unseen)


def write(
    path: Path, content: Mapping[str, Any], tensors: Mapping[str, Any], load: Callable[[Any], npt.NDArray[Any]]
) -> None:
    """Write a file atomically: charrnn's own record, then one tensor (torch's or NumPy's) after another, each as an
    array in one piece that `load` makes of it.

    Raises CharRNNError if the file cannot be written.
    """
    kinds = {name: _NAMES[str(tensor.dtype).removeprefix("torch.")] for name, tensor in tensors.items()}
    names = sorted(tensors, key=lambda name: ([*_NAMES.values()].index(kinds[name]), name))
    tree: dict[str, Any] = {"__metadata__": {"charrnn": json.dumps(content, ensure_ascii=False)}}
    size = 0
    for name in names:
        tensor, begin = tensors[name], size
        size += tensor.nbytes
        tree[name] = {"dtype": kinds[name], "shape": [*tensor.shape], "data_offsets": [begin, size]}
    header = json.dumps(tree, ensure_ascii=False, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    with atomic_writer(path, 8 + len(header) + size) as file:
        file.write(struct.pack("<Q", len(header)) + header)
        for name in names:
            file.write(load(tensors[name]).data)


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    sha = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            sha.update(piece)
    return sha.hexdigest()


def read(path: Path, *, arrays: bool = False) -> Contents:
    """Read and check everything but the tensors, and with `arrays` the model's own tensors as well.

    The file is opened once, since training may replace it at any time. Raises CharRNNError for a file that is not an
    intact charrnn model.
    """
    try:
        with path.open("rb") as file:
            contents = _header(path, file)
            return replace(contents, arrays=_arrays(contents, file)) if arrays else contents
    except FileNotFoundError as error:
        raise CharRNNError(f"{path}: no such model file. charrnn info lists the runs here.") from error
    except OSError as error:
        raise CharRNNError(f"{path}: cannot be read ({error.strerror}).") from error


def _header(path: Path, file: BinaryIO) -> Contents:
    size = os.fstat(file.fileno()).st_size
    start = file.read(8)
    length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
    if 8 + length > size or length > _MAX_HEADER:
        if file.read(1) == b"{" and length <= _MAX_HEADER:
            raise damaged(path, f"its header ends at byte {8 + length} of {size}")
        raise _foreign(path)
    raw = file.read(length)
    if not raw.startswith(b"{"):
        raise _foreign(path)
    try:
        tree = json.loads(raw)
        metadata = tree.pop("__metadata__", {})
        content = json.loads(metadata["charrnn"]) if "charrnn" in metadata else None
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise damaged(path, "its header is not JSON") from error
    if content is None:
        raise CharRNNError(f"{path} is a safetensors file but not a charrnn model. Name one that charrnn train made.")
    shapes, locations = _tensors(path, tree, 8 + length, size)
    try:
        if int(content["format"]) > FORMAT:
            raise CharRNNError(
                f"{path} was written by a newer charrnn (format {content['format']}; this one reads up to {FORMAT})."
                " Upgrade with: pip install --upgrade charrnn"
            )
        model = dict(content["config"])["model"]
        if int(content["format"]) < 2 and isinstance(model, dict) and model.get("tie_weights") is True:
            raise CharRNNError(
                f"{path} was written by an older charrnn, whose tied weights (model.tie_weights) worked differently."
                " Train it again."
            )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise garbled(path, error) from error
    return Contents(path, content, shapes, locations)


def _arrays(contents: Contents, file: BinaryIO) -> dict[str, npt.NDArray[Any]]:
    arrays = {}
    for name, shape in contents.weights.items():
        kind, offset = contents.locations[name]
        file.seek(offset)
        # read, not mapped: all weights are needed at once
        array = np.fromfile(file, (_FLOATS | _COUNTS)[kind], math.prod(shape))
        if array.size != math.prod(shape):
            raise damaged(contents.path, f"{name} is cut off")
        arrays[name] = array.reshape(shape)
    return arrays


def garbled(path: Path, error: Exception) -> CharRNNError:
    """Return the error for a header with a missing or invalid field, given the exception that names it."""
    return damaged(path, f"its header lacks or garbles {str(error) or 'a field'}")


def check_weights(path: Path, expected: Shapes, found: Shapes) -> None:
    """Raise CharRNNError where a file's weights are not those that its header describes."""
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise damaged(path, f"its header promises {name} as {expected.get(name)}, the file holds {found.get(name)}")


def damaged(path: Path, why: str) -> CharRNNError:
    """Return the error for a damaged file: why it is, and what to use instead."""
    other = "best.safetensors" if path.name == "last.safetensors" else "last.safetensors"
    advice = f"Try {other}." if (path.parent / other).exists() else "Copy it again, or train again."
    return CharRNNError(f"{path} is damaged ({why}). {advice}")


def _foreign(path: Path) -> CharRNNError:
    return CharRNNError(
        f"{path} is not a charrnn model. Name a run folder or a .safetensors file that charrnn train made."
    )


def _tensors(path: Path, tree: Any, first: int, size: int) -> tuple[Shapes, dict[str, tuple[str, int]]]:
    """Check that the tensors fill the file exactly, without gaps, so that every size is true.

    Return their shapes, and their types and offsets in the file.
    """
    shapes, locations, spans = {}, {}, []
    try:
        for name, entry in tree.items():
            shape = tuple(int(side) for side in entry["shape"])
            begin, end = (int(offset) for offset in entry["data_offsets"])
            if min(shape, default=0) < 0 or end - begin != math.prod(shape) * _BYTES[entry["dtype"]]:
                raise damaged(path, f"its header gives {name} another size than its bytes")
            if not name.startswith(EXTRA) and entry["dtype"] not in (_COUNTS if name.startswith(GRAMS) else _FLOATS):
                raise damaged(path, f"{name} is of type {entry['dtype']}")
            shapes[name], locations[name] = shape, (str(entry["dtype"]), first + begin)
            spans.append((begin, end))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise damaged(path, "its header does not describe tensors") from error
    previous = 0
    for begin, end in sorted(spans):
        if begin != previous:
            raise damaged(path, "its header leaves gaps between tensors")
        previous = end
    if first + previous != size:
        raise damaged(path, f"its tensors need {previous} bytes, the file has {size - first}")
    return shapes, locations
