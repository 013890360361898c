"""One model in one file: weights, and in its header the configuration, vocabulary, corpus and scores, all checked.
Knows nothing of run folders or training; what lies where in the file is `tensorfile`'s business."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import NonNegativeInt, PositiveInt, TypeAdapter, ValidationError

from charrnn.checkpoints import safetensors_file
from charrnn.checkpoints.safetensors_file import EXTRA, FORMAT, check_weights, damaged
from charrnn.config import loading
from charrnn.config.schema import Config
from charrnn.data.corpus import CorpusCard
from charrnn.data.vocabulary import Vocabulary
from charrnn.models import ngram
from charrnn.models.architecture import products
from charrnn.scores import BaselineScores, Score

if TYPE_CHECKING:
    from torch import Tensor

    from charrnn.models.factory import Network


TEACHER = EXTRA + "teacher/"  # names of the weights of the model that a fine-tuning began with


@dataclass(frozen=True)
class EvaluationRecord:
    """Record one evaluation in training; nats are summed over `characters` of the validation part. What a fine-tuning
    starts from is evaluated at step 0, when nothing is known of the training part."""

    step: int
    epoch: float
    seconds: float
    training_bits_per_character: float | None
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
    history: tuple[EvaluationRecord, ...] = ()
    position: dict[str, Any] | None = None
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    baselines: BaselineScores | None = None

    @property
    def parameters(self) -> int:
        """Count the weights."""
        return sum(math.prod(shape) for name, shape in self.shapes.items() if not name.startswith(EXTRA))

    @property
    def read(self) -> int:
        """Count the characters that training had read by the latest evaluation."""
        train = self.config.train
        return self.latest.step * int(train.batch_size) * train.sequence_length if self.latest else 0

    @property
    def flops(self) -> float:
        """Count the floating-point operations of that, in products alone: two each, once forwards and twice back."""
        return 6.0 * self.read * products(self.config.model, len(self.vocabulary))

    @property
    def latest(self) -> EvaluationRecord | None:
        """Give the evaluation that these weights were saved at or after."""
        return self.history[-1] if self.history else None


def to_bytes(header: Header, tensors: dict[str, Tensor]) -> bytes:
    """Write a model file into memory; tensors are copied, since a fused kernel's weights are views of one buffer."""
    import safetensors.torch

    copies = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    return safetensors.torch.save(copies, _metadata(header))


def tables_to_bytes(header: Header, tables: dict[str, ngram.Integers]) -> bytes:
    """Write the file of a model that is made of tables into memory."""
    import safetensors.numpy

    return safetensors.numpy.save(tables, _metadata(header))


def _metadata(header: Header) -> dict[str, str]:
    content = {
        "format": FORMAT,
        "config": loading.to_dict(header.config),
        "vocabulary": {
            "characters": header.vocabulary.characters,
            "seen": header.vocabulary.seen,
            "novel": header.vocabulary.novel,
            "unseen": header.vocabulary.unseen,
        },
        "corpus": asdict(header.corpus),
        "history": [asdict(evaluated) for evaluated in header.history],
        "position": header.position,
        "baselines": None if header.baselines is None else asdict(header.baselines),
    }
    return {"charrnn": json.dumps(content, ensure_ascii=False)}


def read_header(path: Path) -> Header:
    """Read and check everything but the tensors. Raises CharRNNError for what is no sound charrnn model file."""
    contents = safetensors_file.read(path)
    content = contents.content
    try:
        config = loading.from_dict(content["config"], str(path))
        vocabulary = contents.vocabulary()
        corpus = TypeAdapter(CorpusCard).validate_python(content["corpus"])
        history = tuple(TypeAdapter(list[EvaluationRecord]).validate_python(content["history"]))
        position = content["position"]
        if not isinstance(position, dict | None):
            raise ValueError("position")
        baselines = TypeAdapter(BaselineScores | None).validate_python(content.get("baselines"))
        if baselines is not None and len(baselines.counts) != len(vocabulary):
            raise ValueError("baselines")
    except ValidationError as error:
        place = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise damaged(path, f"its header garbles {place or 'a record'}") from error
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise safetensors_file.garbled(path, error) from error
    header = Header(config, vocabulary, corpus, history, position, contents.shapes, baselines)
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


def read_model(path: Path) -> tuple[Header, Network]:
    """Read a model in evaluation mode, on the CPU. Raises CharRNNError where header and tensors disagree."""
    header = read_header(path)
    return header, build_model(path, header, read_tensors(path))


def build_model(path: Path, header: Header, tensors: dict[str, Tensor]) -> Network:
    """Make the model of a header and give it its weights."""
    import torch

    from charrnn.models.factory import make_model

    with torch.device("meta"):
        model = make_model(header.config.model, len(header.vocabulary))
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    weights = {name: tensor for name, tensor in tensors.items() if not name.startswith(EXTRA)}
    check_weights(path, expected, {name: tuple(tensor.shape) for name, tensor in weights.items()})
    model = make_model(header.config.model, len(header.vocabulary))
    model.load_state_dict(weights)
    return model.eval()


def _check_sizes(path: Path, header: Header) -> None:
    """Refuse sizes that the file's tensors cannot have, before anything of those sizes is made."""
    model = header.config.model
    if model.unsettled:
        raise damaged(path, "its configuration is not resolved")
    if model.counted:
        if not ngram.fits(model.order, header.shapes):
            raise damaged(path, "its header promises other sizes than its tensors have")
        return
    if model.cell == "hmm":
        states, sizes = model.hidden_size, [header.shapes.get(name) for name in ("transition", "emission")]
        if sizes != [(states, states), (len(header.vocabulary), states)]:
            raise damaged(path, "its header promises other sizes than its tensors have")
        return
    expected = (len(header.vocabulary), model.embedding_size)
    layers = sum(name.startswith("layers.") and name.endswith("kernel.weight_hh_l0") for name in header.shapes)
    hidden = header.shapes.get("layers.0.kernel.weight_hh_l0", (0, 0))[-1]
    if header.shapes.get("embedding") != expected or layers != model.num_layers or hidden != model.hidden_size:
        raise damaged(path, "its header promises other sizes than its tensors have")
    skip = model.time_skip or 0
    if skip > 1_000_000:
        raise damaged(path, "its header promises an impossible time skip")
