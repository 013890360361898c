"""A model and the text that it is inspected on, opened once for every analysis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charrnn.cli.console import bar, note, stdin
from charrnn.errors import CharRNNError, MisuseError
from charrnn.messages import counted

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from charrnn.checkpoints.model_file import Header
    from charrnn.data.decoding import Errors
    from charrnn.data.vocabulary import Vocabulary
    from charrnn.inspection.states import States

_LEAST = {"reach": 100, "units": 100, "saliency": 2}  # characters


@dataclass(frozen=True)
class Subject:
    """A model, of a mixture its network, by the `label` that it is printed with, and a text."""

    label: str
    path: Path
    header: Header
    model: Any
    vocabulary: Vocabulary
    text: str

    @cached_property
    def states(self) -> States:
        """The states and gates of the model after each character."""
        from charrnn.inspection.states import read_states

        tokens = self.vocabulary.encode(self.text).astype("int64")
        return read_states(self.model, tokens, self.vocabulary.boundary_tokens, gates=True)

    @cached_property
    def nats(self) -> npt.NDArray[np.float64]:
        """The negative log-likelihood of each character."""
        from charrnn.evaluation import short_texts

        tokens = self.vocabulary.encode(self.text)
        with bar(len(tokens)) as shown:
            return short_texts.nats_of_each(self.model, self.vocabulary, [tokens], shown.update)[0]

    @cached_property
    def network(self) -> Any:
        """The network as a torch module, for gradients."""
        from charrnn.checkpoints import model_file

        return model_file.read_model(self.path)[1]

    def unavailable(self, analysis: str) -> str | None:
        """Say why an analysis makes no sense for this model, or this text."""
        of, name = self.header.config.model, f"--{analysis}"
        if analysis in {"units", "gates", "saliency"} and of.counted:
            return (
                f"{name}: {self.label} is an n-gram model, which has no units. --reach, --errors and --colour suit it."
            )
        if analysis == "gates" and of.cell not in {"lstm", "gru"}:
            return f"{name}: {self.label} is an {of.cell}, which has no gates."
        if analysis == "saliency" and of.cell == "hmm":
            return f"{name}: {self.label} is a hidden Markov model, which has no input vectors to take gradients by."
        if len(self.text) < _LEAST.get(analysis, 1):
            return f"{name} needs {counted(_LEAST[analysis], 'character')} of text; this one has {len(self.text)}."
        return None

    def analyse(self, analysis: str, seed: int) -> Any:
        """Measure what an option asks for. Raises MisuseError where that makes no sense."""
        if reason := self.unavailable(analysis):
            raise MisuseError(reason)
        return getattr(self, f"_{analysis}")(seed)

    def _reach(self, seed: int) -> Any:
        from charrnn.inspection import reach

        network = None if self.header.config.model.cell in {"ngram", "hmm"} else self.network
        states = None if network is None else self.states
        with bar(reach.work(len(self.text), gradient=network is not None)) as shown:
            more: dict[str, Any] = {"states": states, "seed": seed, "progress": shown.update}
            return reach.measure(self.model, network, self.vocabulary, self.text, **more)

    def _units(self, seed: int) -> Any:
        from charrnn.inspection import units

        with bar(None) as shown:
            return units.find(self.states, self.text, seed=seed, progress=shown.update)

    def _gates(self, _: int) -> Any:
        from charrnn.inspection import gates

        return gates.shares(self.states)

    def _errors(self, _: int) -> Any:
        from charrnn.inspection import errors

        training, boundary = self._training_text(), self.vocabulary.boundary
        with bar(None) as shown:
            return errors.analyse(self.nats, self.text, training, boundary=boundary, progress=shown.update)

    def _saliency(self, _: int) -> Any:
        from charrnn.inspection import saliency

        with bar(saliency.count(self.network, len(self.vocabulary), len(self.text))) as shown:
            more: dict[str, Any] = {"states": self.states, "progress": shown.update}
            return saliency.measure(self.model, self.network, self.vocabulary, self.text, **more)

    def _training_text(self) -> str | None:
        """Read the text that the model was trained on; None, and a note, where it is gone."""
        from charrnn.checkpoints import training_corpus
        from charrnn.evaluation.baselines import MAX_ON_DEMAND

        try:
            training = training_corpus.find(
                self.header, self.path, "So no n-grams are among the oracles.", say=note
            ).training
            return training.last(MAX_ON_DEMAND)
        except CharRNNError as error:
            note(str(error))
            return None


def open_subjects(
    names: tuple[str, ...], paths: list[Path], given: str | None, length: int, encoding: str, errors: Errors
) -> list[Subject]:
    """Open models, and read the beginning of TEXT, or of what was held out of the first model's corpus."""
    from charrnn.checkpoints import inference, model_file, run_dir
    from charrnn.data.text_files import TextReader

    boundary = inference.documents(paths[0]).boundary
    reader = None
    if given is not None:  # a text that is not there is told before anything is read
        reader = TextReader([given], encoding, stdin(), errors=errors, boundary=boundary, say=note)
    opened = [(model_file.read_header(path), *inference.load(path, network_only=True)) for path in paths]
    labels = list(names) or [run_dir.model_name(paths[0])]
    text = _held_out(opened[0][0], paths[0], length) if reader is None else _beginning(reader, length)
    for label, (header, *_) in zip(labels, opened, strict=True):
        if header.mixture is not None:
            note(f"{label} is a mixture: its network is inspected, without its counts.")
    return [Subject(label, path, *parts, text) for label, path, parts in zip(labels, paths, opened, strict=True)]


def model_names(subjects: Sequence[Subject]) -> list[str]:
    """Name models for a page or a picture, which others get, who need not see where a model lies; two of one name by
    their labels."""
    from charrnn.checkpoints import run_dir

    names = [run_dir.model_name(subject.path) for subject in subjects]
    return names if len(set(names)) == len(names) else [subject.label for subject in subjects]


def _beginning(reader: Any, length: int) -> str:
    """Read so many characters of a text, and say where there are more."""
    text = ""
    for piece in reader.pieces():
        text += piece
        if len(text) > length:
            note(f"The first {counted(length, 'character')} of the text are inspected; --length sets another number.")
            break
    return text[:length]


def _held_out(header: Header, path: Path, length: int) -> str:
    from charrnn.checkpoints import training_corpus

    instead = "Name a text instead: charrnn inspect TEXT"
    kind, split = training_corpus.held_out(header, path, say=note, instead=instead)
    text = split.first(length)
    note(f"Text: the first {counted(len(text), 'character')} of the {kind} of {header.corpus.name}.")
    return text
