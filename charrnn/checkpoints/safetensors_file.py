"""The format of model files: safetensors, a JSON header followed by the tensors, read and written without torch.
Nothing in a file is ever executed, and every size and number in its header is checked before it is used.
Knows the layout and the vocabulary; what the other fields may hold is left to `header_check`."""

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
from charrnn.checkpoints import header_check
from charrnn.data.vocabulary import Vocabulary
from charrnn.errors import CharRNNError

FORMAT = header_check.HALF_FORMAT  # other files are of one before, which earlier versions read
EXTRA = "training/"  # prefix of the tensors that only resuming needs
TEACHER = EXTRA + "teacher/"  # prefix of the weights of the model that fine-tuning started from
GRAMS = "grams/"  # prefix of an n-gram model's tables
NGRAM = "ngram/"  # prefix of the tables of a mixture's n-gram model, before their own
_FLOATS: dict[str, np.dtype[Any]] = {"F64": np.dtype("<f8"), "F32": np.dtype("<f4")}  # types of weights
_HALF: dict[str, np.dtype[Any]] = {"F16": np.dtype("<f2")}  # of those of a file of HALF_FORMAT
_COUNTS: dict[str, np.dtype[Any]] = {"U8": np.dtype("u1"), "U16": np.dtype("<u2"), "U32": np.dtype("<u4")}  # of tables
TYPES = {**_FLOATS, **_HALF, **_COUNTS, "I64": np.dtype("<i8"), "I32": np.dtype("<i4")}
# of tensors to write, by torch's and NumPy's names, in the order in which the safetensors library writes them
_NAMES = {"int64": "I64", "float64": "F64", "float32": "F32", "uint32": "U32", "int32": "I32", "float16": "F16"}
_NAMES |= {"uint16": "U16", "uint8": "U8"}
_MAX_HEADER = 100_000_000  # bytes
_MAX_DIMENSIONS = 8
_MAX_EXTRA = 8  # tensors that resuming needs, for each weight: moments, and the teacher's weights
_PIECE = 1 << 20  # bytes hashed at a time
Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Contents:
    """What a file contains, checked."""

    path: Path
    content: dict[str, Any]  # charrnn's own record
    shapes: Shapes  # of all tensors
    locations: dict[str, tuple[str, int]]  # the type of each tensor, and the offset of its bytes in the file
    arrays: dict[str, npt.NDArray[Any]] = field(default_factory=dict)  # those of the tensors that were requested

    @property
    def weights(self) -> Shapes:
        """Return the shapes of the tensors of a network, or of an n-gram model."""
        return {name: shape for name, shape in self.shapes.items() if not name.startswith((EXTRA, NGRAM))}

    @property
    def tables(self) -> Shapes:
        """Return the shapes of the tables of a mixture's n-gram model, by their own names."""
        return {name.removeprefix(NGRAM): shape for name, shape in self.shapes.items() if name.startswith(NGRAM)}

    @property
    def half(self) -> bool:
        """Say whether the weights are in fp16 in the file."""
        return bool(self.content["format"] >= header_check.HALF_FORMAT)

    def vocabulary(self) -> Vocabulary:
        """Return the vocabulary."""
        recorded = self.content["vocabulary"]
        counts = recorded["seen"], recorded["novel"], recorded.get("unseen", 0)
        return Vocabulary(recorded["characters"], *counts, self.content.get("boundary", "\n"))


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
    """Return the SHA-256 of a file. Raises CharRNNError if it cannot be read."""
    sha = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while piece := file.read(_PIECE):
                sha.update(piece)
    except OSError as error:
        raise CharRNNError(f"{path}: cannot be read ({error.strerror}).") from error
    return sha.hexdigest()


def read(path: Path, *, arrays: bool = False, training: bool = False, tables: bool = False) -> Contents:
    """Read and check everything but the tensors; with `arrays` those of the network as well, or of an n-gram model,
    with `training` those that only resuming needs, and with `tables` those of a mixture's n-gram model.

    The file is opened once, since training may replace it at any time. Raises CharRNNError for a file that is not an
    intact charrnn model.
    """
    try:
        with path.open("rb") as file:
            contents = _header(path, file)
            if not arrays:
                return contents
            left_out = (*(() if training else (EXTRA,)), *(() if tables else (NGRAM,)))
            wanted = {name: shape for name, shape in contents.shapes.items() if not name.startswith(left_out)}
            return replace(contents, arrays=_arrays(contents, file, wanted))
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
    _check_format(path, content)
    kinds = _HALF if content["format"] >= header_check.HALF_FORMAT else _FLOATS
    shapes, locations = _tensors(path, tree, 8 + length, size, kinds)
    try:
        header_check.check(content)
    except header_check.Garbled as error:
        raise garbled(path, error) from error
    contents = Contents(path, content, shapes, locations)
    if len(shapes) - len(contents.tables) > _MAX_EXTRA * len(contents.weights) + _MAX_EXTRA:
        raise damaged(path, f"it holds {len(shapes)} tensors for {len(contents.weights)} weights")
    return contents


def _check_format(path: Path, content: Any) -> None:
    """Raise CharRNNError for a format that is not this version's."""
    written = content.get("format") if isinstance(content, dict) else None
    if type(written) is not int or written < 1:
        raise damaged(path, "its header lacks or garbles format")
    if written > FORMAT:
        raise CharRNNError(
            f"{path} was written by a newer charrnn (format {written}; this one reads up to {FORMAT})."
            " Upgrade with: pip install --upgrade charrnn"
        )
    config = content.get("config")
    model = config.get("model") if isinstance(config, dict) else None
    if written < 2 and isinstance(model, dict) and model.get("tie_weights") is True:
        raise CharRNNError(
            f"{path} was written by an older charrnn, whose tied weights (model.tie_weights) worked differently."
            " Train it again."
        )


def _arrays(contents: Contents, file: BinaryIO, shapes: Shapes) -> dict[str, npt.NDArray[Any]]:
    """Read tensors, and check that weights are finite; those in fp16 become fp32, to compute with."""
    arrays = {}
    for name, shape in shapes.items():
        kind, offset = contents.locations[name]
        file.seek(offset)
        # read, not mapped: all weights are needed at once
        array = np.fromfile(file, TYPES[kind], math.prod(shape))
        if array.size != math.prod(shape):
            raise damaged(contents.path, f"{name} is cut off")
        array = array.astype(np.float32) if kind in _HALF else array
        if (
            kind in {**_FLOATS, **_HALF}
            and (name.startswith(TEACHER) or not name.startswith(EXTRA))
            and not _finite(array)
        ):
            raise damaged(contents.path, f"{name} has values that are not finite")
        arrays[name] = array.reshape(shape)
    return arrays


def _finite(array: npt.NDArray[Any]) -> bool:
    """Say whether all values are finite; a product tells in most cases, which is quicker than looking at each."""
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(np.dot(array, array))) or bool(np.isfinite(array).all())


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
    advice = f"Try {other}." if _is_whole(path.parent / other) else "Copy it again, or train again."
    return CharRNNError(f"{path} is damaged ({why}). {advice}")


def _is_whole(path: Path) -> bool:
    """Say whether a file is as long as its header says: advice must not lead from one damaged file to another."""
    try:
        with path.open("rb") as file:
            size, length = os.fstat(file.fileno()).st_size, struct.unpack("<Q", file.read(8))[0]
            tree = json.loads(file.read(min(length, _MAX_HEADER)))
            ends = [entry["data_offsets"][1] for name, entry in tree.items() if name != "__metadata__"]
            return bool(8 + length + max(ends) == size)
    except (OSError, ValueError, TypeError, AttributeError, LookupError, RecursionError, struct.error):
        return False


def _foreign(path: Path) -> CharRNNError:
    return CharRNNError(
        f"{path} is not a charrnn model. Name a run folder or a .safetensors file that charrnn train made."
    )


def _tensors(
    path: Path, tree: Any, first: int, size: int, weights: Mapping[str, np.dtype[Any]]
) -> tuple[Shapes, dict[str, tuple[str, int]]]:
    """Check that the tensors fill the file exactly, without gaps, so that every size is true, and that weights are of
    one of some types.

    Return their shapes, and their types and offsets in the file.
    """
    shapes, locations, spans = {}, {}, []
    try:
        for name, entry in tree.items():
            kind, shape = str(entry["dtype"]), tuple(int(side) for side in entry["shape"])
            begin, end = (int(offset) for offset in entry["data_offsets"])
            types = TYPES if name.startswith(EXTRA) else _COUNTS if name.startswith((GRAMS, NGRAM)) else weights
            if kind not in types:
                raise damaged(path, f"{name} is of type {kind}")
            if len(shape) > _MAX_DIMENSIONS or min(shape, default=0) < 0:
                raise damaged(path, f"its header gives {name} an impossible shape")
            if end - begin != math.prod(shape) * types[kind].itemsize:
                raise damaged(path, f"its header gives {name} another size than its bytes")
            shapes[name], locations[name] = shape, (kind, first + begin)
            spans.append((begin, end))
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise damaged(path, "its header does not describe tensors") from error
    previous = 0
    for begin, end in sorted(spans):
        if begin != previous:
            raise damaged(path, "its header leaves gaps between tensors")
        previous = end
    if first + previous != size:
        raise damaged(path, f"its tensors need {previous} bytes, the file has {size - first}")
    return shapes, locations
