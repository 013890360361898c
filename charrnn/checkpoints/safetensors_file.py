"""The file that a model is in: safetensors, weights behind a JSON header, read without torch.
Nothing in it is ever executed, and no number in its header is believed before it is checked against the file.
Knows what lies where, and the vocabulary; what settings and scores mean is `modelfile`'s business."""

from __future__ import annotations

import json
import math
import os
import struct
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from charrnn.data.vocabulary import Vocabulary
from charrnn.errors import CharRNNError

FORMAT = 2
EXTRA = "training/"  # names of tensors that only a resumed training needs begin so
GRAMS = "grams/"  # and so those of an n-gram model's tables
_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "BOOL": 1}
_BYTES |= {"U64": 8, "U32": 4, "U16": 2, "U8": 1}
_FLOATS: dict[str, np.dtype[Any]] = {"F64": np.dtype("<f8"), "F32": np.dtype("<f4")}  # what weights may be
_COUNTS: dict[str, np.dtype[Any]] = {"U8": np.dtype("u1"), "U16": np.dtype("<u2"), "U32": np.dtype("<u4")}  # and tables
_LONGEST_HEADER = 100_000_000
Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Contents:
    """Hold what a file's checked header says: `content` is charrnn's own record, `shapes` are those of all tensors,
    `places` their type and where their bytes begin in the file; and `arrays`, the model's own tensors, if asked for."""

    path: Path
    content: dict[str, Any]
    shapes: Shapes
    places: dict[str, tuple[str, int]]
    arrays: dict[str, npt.NDArray[Any]] = field(default_factory=dict)

    @property
    def weights(self) -> Shapes:
        """Give the shapes of the model's own tensors."""
        return {name: shape for name, shape in self.shapes.items() if not name.startswith(EXTRA)}

    def vocabulary(self) -> Vocabulary:
        """Read the vocabulary. Raises KeyError, TypeError or ValueError where it is none."""
        recorded = self.content["vocabulary"]
        characters = str(recorded["characters"])
        characters.encode()  # a lone surrogate is a ValueError
        if "\n" not in characters or len(set(characters)) != len(characters):
            raise ValueError("vocabulary")
        seen, novel, unseen = int(recorded["seen"]), int(recorded["novel"]), int(recorded.get("unseen", 0))
        if not 0 <= novel <= seen or seen < 1 or not 0 <= unseen < len(characters):
            raise ValueError("vocabulary counts")
        return Vocabulary(characters, seen, novel, unseen)


def read(path: Path, *, arrays: bool = False) -> Contents:
    """Read and check everything but the tensors, and if asked the model's own tensors as well.

    All from one opening of the file: a training may put another in its place meanwhile. Raises CharRNNError for what is
    no sound charrnn model file.
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
    if 8 + length > size or length > _LONGEST_HEADER:
        looks = file.read(1) == b"{"
        if looks and length <= _LONGEST_HEADER:
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
        raise CharRNNError(f"{path} is a safetensors file but no charrnn model. Name one that charrnn train made.")
    shapes, places = _tensors(path, tree, 8 + length, size)
    try:
        if int(content["format"]) > FORMAT:
            raise CharRNNError(
                f"{path} was written by a newer charrnn (format {content['format']}; this one reads up to {FORMAT})."
                " Upgrade with: pip install --upgrade charrnn"
            )
        model = dict(content["config"])["model"]
        if int(content["format"]) < 2 and isinstance(model, dict) and model.get("tie_weights") is True:
            raise CharRNNError(
                f"{path} was written by an older charrnn, whose tied weights (model.tie_weights) worked otherwise."
                " Train it again."
            )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise garbled(path, error) from error
    return Contents(path, content, shapes, places)


def _arrays(contents: Contents, file: BinaryIO) -> dict[str, npt.NDArray[Any]]:
    arrays = {}
    for name, shape in contents.weights.items():
        kind, begin = contents.places[name]
        file.seek(begin)
        # read, not mapped: the weights are all needed, and soon
        array = np.fromfile(file, (_FLOATS | _COUNTS)[kind], math.prod(shape))
        if array.size != math.prod(shape):
            raise damaged(contents.path, f"{name} is cut off")
        arrays[name] = array.reshape(shape)
    return arrays


def garbled(path: Path, error: Exception) -> CharRNNError:
    """Say that a field of the header is missing or cannot be, given the error that shows it."""
    return damaged(path, f"its header lacks or garbles {str(error) or 'a field'}")


def check_weights(path: Path, expected: Shapes, found: Shapes) -> None:
    """Raise CharRNNError where a file's weights are not those that its header promises."""
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise damaged(path, f"its header promises {name} as {expected.get(name)}, the file holds {found.get(name)}")


def damaged(path: Path, why: str) -> CharRNNError:
    """Say that a file cannot be trusted, why, and what else there is."""
    other = "best.safetensors" if path.name == "last.safetensors" else "last.safetensors"
    advice = f"Try {other}." if (path.parent / other).exists() else "Copy it anew, or train again."
    return CharRNNError(f"{path} is damaged ({why}). {advice}")


def _foreign(path: Path) -> CharRNNError:
    return CharRNNError(
        f"{path} is no charrnn model. Name a run folder or a .safetensors file that charrnn train made."
    )


def _tensors(path: Path, tree: Any, first: int, size: int) -> tuple[Shapes, dict[str, tuple[str, int]]]:
    """Check that tensors lie end to end and fill the file exactly, so that no size can be a lie."""
    shapes, places, spans = {}, {}, []
    try:
        for name, entry in tree.items():
            shape = tuple(int(side) for side in entry["shape"])
            begin, end = (int(offset) for offset in entry["data_offsets"])
            if min(shape, default=0) < 0 or end - begin != math.prod(shape) * _BYTES[entry["dtype"]]:
                raise damaged(path, f"its header gives {name} another size than its bytes")
            if not name.startswith(EXTRA) and entry["dtype"] not in (_COUNTS if name.startswith(GRAMS) else _FLOATS):
                raise damaged(path, f"{name} is of type {entry['dtype']}")
            shapes[name], places[name] = shape, (str(entry["dtype"]), first + begin)
            spans.append((begin, end))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise damaged(path, "its header does not describe tensors") from error
    reached = 0
    for begin, end in sorted(spans):
        if begin != reached:
            raise damaged(path, "its header leaves gaps between tensors")
        reached = end
    if first + reached != size:
        raise damaged(path, f"its tensors need {reached} bytes, the file has {size - first}")
    return shapes, places
