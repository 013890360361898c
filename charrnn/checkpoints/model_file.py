"""One model in one file: its weights, and in the header its configuration, vocabulary, corpus and scores, checked.
Knows nothing of run folders or training; the layout of the file is left to `safetensors_file`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from charrnn.checkpoints import header_check, mixture_parts, safetensors_file
from charrnn.checkpoints.header_check import BOUNDARY_FORMAT, HALF_FORMAT, MIXTURE_FORMAT
from charrnn.checkpoints.safetensors_file import EXTRA, NGRAM, Contents, check_weights, damaged
from charrnn.config import loading
from charrnn.config.schema import Config, resolved
from charrnn.data.batches import Rows
from charrnn.data.corpus import CorpusCard
from charrnn.data.duplicates import Repeated
from charrnn.data.vocabulary import Vocabulary
from charrnn.errors import CharRNNError
from charrnn.models import ngram
from charrnn.models.architecture import Architecture, products
from charrnn.models.interface import Floats
from charrnn.scores import NATS_PER_BIT, Baselines, BaselineScores, Score

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from torch import Tensor

    from charrnn.models.factory import Network
    from charrnn.models.torch_mixture import TorchMixture

Record = TypeVar("Record", bound="DataclassInstance")
Value = TypeVar("Value")


@dataclass(frozen=True)
class EvaluationRecord:
    """One evaluation during training, with nats summed over `characters` of the validation split.

    Fine-tuning evaluates its initial model at step 0, where there is no training loss yet.
    """

    step: int
    epoch: float
    seconds: float
    training_bits_per_character: float | None
    nats: float
    characters: int
    correct: int
    # of a bidirectional model: read backwards, and given both sides
    backward_nats: float | None = None
    cloze_nats: float | None = None
    cloze_correct: int | None = None
    mixture_nats: float | None = None  # of the network mixed with an n-gram model

    @property
    def bits_per_character(self) -> float:
        """Return the validation score of the network."""
        return self.nats / NATS_PER_BIT / self.characters

    @property
    def mixture_bits(self) -> float | None:
        """Return the bits/char of the mixture, where it is one."""
        return None if self.mixture_nats is None else self.mixture_nats / NATS_PER_BIT / self.characters

    @property
    def model_nats(self) -> float:
        """Return the validation nats of the whole model: of the mixture, where it is one."""
        return self.nats if self.mixture_nats is None else self.mixture_nats

    @property
    def judged_bits(self) -> float:
        """Return the bits/char that the best checkpoint is selected by: the validation score of the whole model, or the
        mean of the three of a bidirectional one."""
        if self.backward_nats is None or self.cloze_nats is None:
            return self.model_nats / NATS_PER_BIT / self.characters
        return (self.model_nats + self.backward_nats + self.cloze_nats) / 3 / NATS_PER_BIT / self.characters

    @property
    def cloze(self) -> Score | None:
        """Return the score of each character given both sides."""
        if self.cloze_nats is None or self.cloze_correct is None:
            return None
        return Score(self.cloze_nats, self.characters, self.cloze_correct)


@dataclass(frozen=True)
class MixtureRecord:
    """The order of the n-gram model that a network is mixed with, and the table of weights (R, C); see
    `ngram_mixture.Weights`."""

    order: int
    weights: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Header:
    """All of a model file but its tensors; `position` is the training position, in last.safetensors only."""

    config: Config
    vocabulary: Vocabulary
    corpus: CorpusCard
    history: tuple[EvaluationRecord, ...] = ()
    position: dict[str, Any] | None = None
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    baselines: BaselineScores | None = None
    mixture: MixtureRecord | None = None
    mixture_size: tuple[int, int] = (0, 0)  # counts of its n-gram model in the file, and bytes of their tables
    half: bool = False  # whether the weights are in fp16

    @property
    def parameters(self) -> int:
        """Count the weights of the network, or the counts of an n-gram model."""
        return sum(math.prod(shape) for shape in _weights(self.shapes).values())

    @property
    def characters_read(self) -> int:
        """Count the characters that training had read by the latest evaluation; an n-gram model's are counted once."""
        train = self.config.train
        if self.config.model.counted:
            return min(self.corpus.training, ngram.MAX_CHARACTERS)
        rows = Rows.of(self.corpus.training, resolved(train.batch_size), train.sequence_length)
        return rows.characters_read(self.latest.step) if self.latest else 0

    @property
    def flops(self) -> float:
        """Count the floating-point operations of training: two for each product, once forwards and twice backwards.

        An n-gram model has none.
        """
        if self.config.model.counted:
            return 0.0
        return 6.0 * self.characters_read * products(self.config.model, len(self.vocabulary))

    @property
    def latest(self) -> EvaluationRecord | None:
        """Return the evaluation that these weights were saved at or after."""
        return self.history[-1] if self.history else None


def network_alone(header: Header) -> Header:
    """Return the header of a mixture's network as a model of its own, which `write` takes with the same weights."""
    config = header.config.with_values(model={"mixture": "none"})
    history = tuple(replace(record, mixture_nats=None) for record in header.history)
    return replace(header, config=config, history=history, mixture=None, mixture_size=(0, 0))


def write(
    path: Path,
    header: Header,
    tensors: Mapping[str, Tensor | Floats],
    tables: Mapping[str, ngram.Integers] | None = None,
) -> None:
    """Write a model file atomically, of a mixture with the tables of its n-gram model, from torch's tensors or NumPy's
    arrays; only one at a time is copied, and only from a GPU or into one piece.

    Raises CharRNNError if it cannot be written.
    """
    assert (tables is None) == (header.mixture is None)

    def array(tensor: Any) -> Any:
        given = isinstance(tensor, np.ndarray)
        return np.ascontiguousarray(tensor) if given else tensor.detach().cpu().contiguous().numpy()

    counts = {NGRAM + name: table for name, table in (tables or {}).items()}
    safetensors_file.write(path, _content(header), {**tensors, **counts}, array)


def write_tables(
    path: Path, header: Header, tables: Mapping[str, ngram.Integers], more: Mapping[str, str] | None = None
) -> None:
    """Write an n-gram model's file, with `more` in its record; errors as in `write`."""
    safetensors_file.write(path, {**_content(header), **(more or {})}, tables, np.ascontiguousarray)


def _content(header: Header) -> dict[str, Any]:
    boundary = header.vocabulary.boundary
    more: dict[str, Any] = {} if boundary == "\n" else {"boundary": boundary}
    written = BOUNDARY_FORMAT if more else BOUNDARY_FORMAT - 1
    config = loading.to_dict(header.config)
    if config["model"].pop("mixture", "none") != "none":
        more[header_check.SETTING] = header.config.model.mixture
    if header.mixture is not None:
        written, more["mixture"] = MIXTURE_FORMAT, asdict(header.mixture)
    if header.half:
        written = HALF_FORMAT
    return {
        "format": written,
        **more,
        "config": config,
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


def read_header(path: Path) -> Header:
    """Read and check everything but the tensors. Raises CharRNNError for a file that is not an intact charrnn model."""
    return _header(safetensors_file.read(path))


def read(path: Path, *, training: bool = False) -> tuple[Header, dict[str, Tensor]]:
    """Read a header and the tensors that belong to it: the weights, and with `training` what resuming needs as well.

    Raises CharRNNError as `read_header` does.
    """
    import torch

    contents = safetensors_file.read(path, arrays=True, training=training)
    return _header(contents), {name: torch.from_numpy(array) for name, array in contents.arrays.items()}


def read_arrays(path: Path, *, tables: bool = False) -> tuple[Header, Contents]:
    """Read a header and the weights as NumPy arrays, with `tables` those of a mixture's n-gram model too; errors as in
    `read_header`."""
    contents = safetensors_file.read(path, arrays=True, tables=tables)
    return _header(contents), contents


def read_model(path: Path) -> tuple[Header, Network]:
    """Read a model in evaluation mode, on the CPU. Raises CharRNNError where header and tensors disagree."""
    header, tensors = read(path)
    return header, build_model(path, header, tensors)


def read_mixture(path: Path, *, network_only: bool = False) -> tuple[Header, Network | TorchMixture]:
    """Read a model as `read_model` does, of a mixture with its n-gram model and weights unless `network_only`."""
    import torch

    from charrnn.models.torch_mixture import TorchMixture

    header, contents = read_arrays(path, tables=not network_only)
    network = build_model(path, header, {name: torch.from_numpy(contents.arrays[name]) for name in contents.weights})
    if header.mixture is None or network_only:
        return header, network
    return header, TorchMixture(network, *mixture_parts.read(contents))


def _header(contents: Contents) -> Header:
    """Return the header of a file whose fields were checked, after checking that its sizes are those of its tensors."""
    content, path = contents.content, contents.path
    mixture_parts.check(contents)
    try:
        config = loading.from_dict(header_check.settings(content), str(path))
    except CharRNNError as error:  # two settings that exclude each other
        raise damaged(path, str(error).removeprefix(f"{path}: ").rstrip(".")) from error
    header = Header(
        config,
        contents.vocabulary(),
        _card(content["corpus"]),
        tuple(_record(EvaluationRecord, record) for record in content["history"]),
        content["position"],
        contents.shapes,
        _baselines(content.get("baselines")),
        _mixture(content.get("mixture")),
        mixture_parts.size(contents),
        contents.half,
    )
    _check_sizes(path, header)
    return header


def _card(record: dict[str, Any]) -> CorpusCard:
    repeated = record.get("repeated")
    if repeated is not None:
        repeated = {split: _record(Repeated, found) for split, found in repeated.items()}
    return _record(CorpusCard, {**record, "repeated": repeated})


def _baselines(record: dict[str, Any] | None) -> BaselineScores | None:
    if record is None:
        return None
    test = record.get("test")
    validation = _record(Baselines, record["validation"])
    return BaselineScores(tuple(record["counts"]), validation, None if test is None else _record(Baselines, test))


def _mixture(record: dict[str, Any] | None) -> MixtureRecord | None:
    return None if record is None else MixtureRecord(record["order"], tuple(map(tuple, record["weights"])))


def _record(kind: type[Record], values: dict[str, Any]) -> Record:
    """Return a record of a header; fields that this version does not know are left out."""
    return kind(**{field.name: values[field.name] for field in fields(kind) if field.name in values})


def build_model(path: Path, header: Header, tensors: dict[str, Tensor]) -> Network:
    """Build the model that a header describes, and load its weights."""
    import torch

    from charrnn.models.factory import make_model

    with torch.device("meta"):
        model = make_model(header.config.model, len(header.vocabulary))
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    weights = _weights(tensors)
    check_weights(path, expected, {name: tuple(tensor.shape) for name, tensor in weights.items()})
    model = make_model(header.config.model, len(header.vocabulary))
    model.load_state_dict(weights)
    return model.eval()


def _weights(tensors: Mapping[str, Value]) -> dict[str, Value]:
    """Leave out what only resuming or a mixture needs."""
    return {name: value for name, value in tensors.items() if not name.startswith((EXTRA, NGRAM))}


def _check_sizes(path: Path, header: Header) -> None:
    """Refuse sizes that differ from those of the file's tensors, before anything of those sizes is allocated."""
    model, vocabulary_size = header.config.model, len(header.vocabulary)
    weights = _weights(header.shapes)
    if model.unresolved:
        raise damaged(path, "its configuration is not resolved")
    if model.counted:
        if not ngram.fits(model.order, weights):
            raise damaged(path, "its header promises other sizes than its tensors have")
        return
    if model.cell == "hmm":
        states = int(model.hidden_size)
        expected: safetensors_file.Shapes = {"transition": (states, states), "emission": (vocabulary_size, states)}
    else:
        try:
            architecture = Architecture.of(model.model_dump())
        except ValueError as error:
            raise safetensors_file.garbled(path, error) from error
        if architecture.num_layers > len(weights):  # the names alone of so many layers would fill the memory
            raise damaged(path, "its header promises other sizes than its tensors have")
        expected = architecture.shapes(vocabulary_size)
    check_weights(path, expected, weights)
