"""The Python interface to several models mixed into one."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import TYPE_CHECKING

from charrnn.api import TextModel
from charrnn.api_arguments import number, path, sequence
from charrnn.errors import MisuseError
from charrnn.evaluation import ensemble as mixing
from charrnn.generation.copying import CopyIndex
from charrnn.inspection.states import States

if TYPE_CHECKING:
    from charrnn.models.factory import Network


class Ensemble(TextModel):
    """Several models as one, which predicts the mean of their distributions; see `ensemble`. `weights` are theirs.

    Its methods are those of TextModel, but it has neither states nor a torch module. The training text that `no_copy`
    excludes is that of all models.
    """

    def __init__(self, models: Sequence[TextModel], weights: Sequence[float] | None) -> None:
        if len(models) < 2:
            raise MisuseError("an ensemble mixes several models; give two or more.")
        self.models = tuple(models)
        self.path, self._documents, self._copies = models[0].path, models[0]._documents, None
        opened = [(model._model, model._vocabulary) for model in models]
        mixing.check_alike([str(model.path) for model in models], [vocabulary for _, vocabulary in opened])
        if weights is not None:
            each = [number("weights", weight) for weight in sequence("weights", weights)]
            found = mixing.normalised("weights", each, len(models))
        else:
            from charrnn.checkpoints import shared_corpus  # pydantic validates the settings that name the text

            split, _ = shared_corpus.validation([model.path for model in models])
            equal = [1 / len(models)] * len(models)
            found = equal if split is None else mixing.choose_weights(opened, split.tokens)
        self.weights = tuple(found)
        self._model, self._vocabulary = mixing.mixture(opened, found)

    def __repr__(self) -> str:
        parts = " + ".join(f"{w:.3f} {model!r}" for w, model in zip(self.weights, self.models, strict=True))
        return f"<charrnn.Ensemble: {parts}>"

    def states(self, content: str) -> States:
        """Raise MisuseError: each of the models has its own."""
        raise MisuseError("an ensemble has no states; ask one of its models.")

    def torch_module(self) -> Network:
        """Raise MisuseError: each of the models has its own."""
        raise MisuseError("an ensemble has no torch module; ask one of its models.")

    def _training_copies(self, size: int) -> CopyIndex:
        if self._copies is None or self._copies.size != size:
            from charrnn.checkpoints import shared_corpus

            advice, paths = "Put it back, or leave out no_copy.", [model.path for model in self.models]
            self._copies = CopyIndex(shared_corpus.training_codes(paths, advice), size)
        return self._copies


def ensemble(models: Sequence[TextModel | str | PathLike[str]], weights: Sequence[float] | None = None) -> Ensemble:
    """Mix several models, opened or named as for `load`, into one: its distribution is the mean of theirs.

    Without `weights`, in the order of the models and divided by their sum, they are chosen on the validation split that
    all were trained apart from; where there is none at hand, they are equal. Raises MisuseError for models of different
    characters or boundaries.
    """
    named = [each if isinstance(each, TextModel) else path("models", each) for each in sequence("models", models)]
    return Ensemble([each if isinstance(each, TextModel) else TextModel(each) for each in named], weights)
