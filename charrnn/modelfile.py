"""One model in one safetensors file: weights, and as JSON in its header the configuration, vocabulary and scores.
Nothing in it is ever executed, and no number in its header is believed before it is checked against the file.
Knows nothing of run folders or training."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import struct
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from pydantic import NonNegativeInt, PositiveInt, TypeAdapter, ValidationError

from charrnn import config as configuration
from charrnn.config import Config
from charrnn.errors import CharRNNError
from charrnn.metrics import Score
from charrnn.vocabulary import Vocabulary

if TYPE_CHECKING:
    from torch import Tensor

    from charrnn.model import CharRNN

FORMAT = 1
EXTRA = "training/"  # names of tensors that only a resumed training needs begin so
_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
_LONGEST_HEADER = 100_000_000


@dataclass(frozen=True)
class CorpusCard:
    """Say what a model learnt from: `sha256` is of the text as UTF-8, counts are characters."""

    name: str
    sha256: str
    training: NonNegativeInt
    validation: NonNegativeInt
    test: NonNegativeInt

    @property
    def characters(self) -> int:
        """Count the characters of the whole text."""
        return self.training + self.validation + self.test


@dataclass(frozen=True)
class Evaluated:
    """Record one evaluation in training; nats are summed over `characters` of the validation part."""

    step: int
    epoch: float
    seconds: float
    training_bits_per_character: float
    nats: float
    characters: PositiveInt
    correct: NonNegativeInt
    # of a bidirectional model, from the end, and with both sides given
    backward_nats: float | None = None
    cloze_nats: float | None = None
    cloze_correct: NonNegativeInt | None = None

    @property
    def bits_per_character(self) -> float:
        """Give the validation part's score."""
        return self.nats / math.log(2.0) / self.characters

    @property
    def judged_bits(self) -> float:
        """Give what the best is judged by, in bits a character: that score, or the mean of all three."""
        if self.backward_nats is None or self.cloze_nats is None:
            return self.bits_per_character
        return (self.nats + self.backward_nats + self.cloze_nats) / 3 / math.log(2.0) / self.characters

    @property
    def cloze(self) -> Score | None:
        """Give the score of each character given both sides."""
        if self.cloze_nats is None or self.cloze_correct is None:
            return None
        return Score(self.cloze_nats, self.characters, self.cloze_correct)


@dataclass(frozen=True)
class Header:
    """Hold all of a model file but its tensors; `position` is where a training stood, in last.safetensors only."""

    config: Config
    vocabulary: Vocabulary
    corpus: CorpusCard
    history: tuple[Evaluated, ...] = ()
    position: dict[str, Any] | None = None
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def parameters(self) -> int:
        """Count the weights."""
        return sum(math.prod(shape) for name, shape in self.shapes.items() if not name.startswith(EXTRA))

    @property
    def latest(self) -> Evaluated | None:
        """Give the evaluation that these weights were saved at or after."""
        return self.history[-1] if self.history else None


def to_bytes(header: Header, tensors: dict[str, Tensor]) -> bytes:
    """Write a model file into memory; tensors are copied, since a fused kernel's weights are views of one buffer."""
    import safetensors.torch

    content = {
        "format": FORMAT,
        "config": header.config.model_dump(mode="json"),
        "vocabulary": {
            "characters": header.vocabulary.characters,
            "seen": header.vocabulary.seen,
            "novel": header.vocabulary.novel,
        },
        "corpus": asdict(header.corpus),
        "history": [asdict(evaluated) for evaluated in header.history],
        "position": header.position,
    }
    copies = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    return safetensors.torch.save(copies, {"charrnn": json.dumps(content, ensure_ascii=False)})


def read_header(path: Path) -> Header:
    """Read and check everything but the tensors. Raises CharRNNError for what is no sound charrnn model file."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            if 8 + length > size or length > _LONGEST_HEADER:
                looks = file.read(1) == b"{"
                if looks and length <= _LONGEST_HEADER:
                    raise damaged(path, f"its header ends at byte {8 + length} of {size}")
                raise _foreign(path)
            raw = file.read(length)
    except FileNotFoundError as error:
        raise CharRNNError(f"{path}: no such model file. charrnn info lists the runs here.") from error
    except OSError as error:
        raise CharRNNError(f"{path}: cannot be read ({error.strerror}).") from error
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
    shapes = _shapes(path, tree, size - 8 - length)
    try:
        if int(content["format"]) > FORMAT:
            raise CharRNNError(
                f"{path} was written by a newer charrnn (format {content['format']}; this one reads up to {FORMAT})."
                " Upgrade with: pip install --upgrade charrnn"
            )
        config = configuration.from_dict(content["config"], str(path))
        vocabulary = _vocabulary(content["vocabulary"])
        corpus = TypeAdapter(CorpusCard).validate_python(content["corpus"])
        history = tuple(TypeAdapter(list[Evaluated]).validate_python(content["history"]))
        position = content["position"]
        if not isinstance(position, dict | None):
            raise ValueError("position")
    except ValidationError as error:
        place = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise damaged(path, f"its header garbles {place or 'a record'}") from error
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise damaged(path, f"its header lacks or garbles {str(error) or 'a field'}") from error
    header = Header(config, vocabulary, corpus, history, position, shapes)
    _check_sizes(path, header)
    return header


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a file whose header was checked."""
    import safetensors.torch
    from safetensors import SafetensorError

    try:
        return safetensors.torch.load_file(path)
    except (SafetensorError, OSError) as error:
        raise damaged(path, str(error)) from error


def read_model(path: Path) -> tuple[Header, CharRNN]:
    """Read a model in evaluation mode, on the CPU. Raises CharRNNError where header and tensors disagree."""
    header = read_header(path)
    return header, build_model(path, header, read_tensors(path))


def build_model(path: Path, header: Header, tensors: dict[str, Tensor]) -> CharRNN:
    """Make the model of a header and give it its weights."""
    import torch

    from charrnn.bidirectional import make_model

    with torch.device("meta"):
        model = make_model(header.config.model, len(header.vocabulary))
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    weights = {name: tensor for name, tensor in tensors.items() if not name.startswith(EXTRA)}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise damaged(path, f"its header promises {name} as {expected.get(name)}, the file holds {found.get(name)}")
    model = make_model(header.config.model, len(header.vocabulary))
    model.load_state_dict(weights)
    return model.eval()


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file whole or not at all. Raises CharRNNError when the disk is full."""
    with writing(path, len(content)) as file:
        file.write(content)


@contextlib.contextmanager
def writing(path: Path, needed: int) -> Iterator[BinaryIO]:
    """Open a file of about so many bytes to write, whole or not at all: temporary file, fsync, rename.

    Raises CharRNNError when the disk is full.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        _replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise cannot_write(path, error, needed) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def cannot_write(path: Path, error: OSError, needed: int) -> CharRNNError:
    """Say why a file could not be written and what to do."""
    kept = f" {path.name} is still the one saved before." if path.exists() else ""
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        saved = (path.parent / "last.safetensors").exists()
        go_on = f"go on with: charrnn train --resume -m {path.parent}" if saved else "begin again."
        return CharRNNError(
            f"{path}: the disk is full.{kept} Free at least {max(needed / 1e6, 1):.0f} MB there, then {go_on}"
        )
    return CharRNNError(f"{path}: cannot be written ({error.strerror or error}).{kept} Check the folder's permissions.")


def _replace(temporary: Path, path: Path) -> None:
    for _ in range(50 if os.name == "nt" else 0):  # Windows: while another process reads the old file, wait
        with contextlib.suppress(PermissionError):
            os.replace(temporary, path)
            return
        time.sleep(0.1)
    os.replace(temporary, path)


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def damaged(path: Path, why: str) -> CharRNNError:
    """Say that a file cannot be trusted, why, and what else there is."""
    other = "best.safetensors" if path.name == "last.safetensors" else "last.safetensors"
    advice = f"Try {other}." if (path.parent / other).exists() else "Copy it anew, or train again."
    return CharRNNError(f"{path} is damaged ({why}). {advice}")


def _foreign(path: Path) -> CharRNNError:
    return CharRNNError(
        f"{path} is no charrnn model. Name a run folder or a .safetensors file that charrnn train made."
    )


def _shapes(path: Path, tree: Any, room: int) -> dict[str, tuple[int, ...]]:
    """Check that tensors lie end to end and fill the file exactly, so that no size can be a lie."""
    shapes, spans = {}, []
    try:
        for name, entry in tree.items():
            shape = tuple(int(size) for size in entry["shape"])
            begin, end = (int(offset) for offset in entry["data_offsets"])
            if min(shape, default=0) < 0 or end - begin != math.prod(shape) * _BYTES[entry["dtype"]]:
                raise damaged(path, f"its header gives {name} another size than its bytes")
            shapes[name] = shape
            spans.append((begin, end))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise damaged(path, "its header does not describe tensors") from error
    reached = 0
    for begin, end in sorted(spans):
        if begin != reached:
            raise damaged(path, "its header leaves gaps between tensors")
        reached = end
    if reached != room:
        raise damaged(path, f"its tensors need {reached} bytes, the file has {room}")
    return shapes


def _vocabulary(content: Any) -> Vocabulary:
    characters = str(content["characters"])
    characters.encode()  # a lone surrogate is a ValueError
    if "\n" not in characters or len(set(characters)) != len(characters):
        raise ValueError("vocabulary")
    seen, novel = int(content["seen"]), int(content["novel"])
    if not 0 <= novel <= seen or seen < 1:
        raise ValueError("vocabulary counts")
    return Vocabulary(characters, seen, novel)


def _check_sizes(path: Path, header: Header) -> None:
    """Refuse sizes that the file's tensors cannot have, before anything of those sizes is made."""
    model = header.config.model
    sizes = (model.hidden_size, model.num_layers, model.embedding_size, model.dropout)
    if "auto" in sizes:
        raise damaged(path, "its configuration is not resolved")
    expected = (len(header.vocabulary), model.embedding_size)
    layers = sum(name.startswith("layers.") and name.endswith("kernel.weight_hh_l0") for name in header.shapes)
    hidden = header.shapes.get("layers.0.kernel.weight_hh_l0", (0, 0))[-1]
    if header.shapes.get("embedding") != expected or layers != model.num_layers or hidden != model.hidden_size:
        raise damaged(path, "its header promises other sizes than its tensors have")
    skip = model.time_skip or 0
    if skip > 1_000_000:
        raise damaged(path, "its header promises an impossible time skip")
