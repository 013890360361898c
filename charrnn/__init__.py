"""charrnn trains recurrent character-level language models on any text, generates text with them, and scores text.

model = charrnn.train("poems.txt", time="10m").model()
model = charrnn.load("checkpoints/poems")
print(model.sample("我爱北京", length=100))
print(model.score("床前明月光").bits_per_character)
"""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING

from charrnn.errors import CharRNNError, MisuseError
from charrnn.version import VERSION as __version__

if TYPE_CHECKING:
    from charrnn.api import TextModel
    from charrnn.api_ensemble import Ensemble, ensemble
    from charrnn.api_training import TrainedRun, train
    from charrnn.generation.infill import Filling
    from charrnn.generation.sampling import Sample
    from charrnn.inspection.states import States
    from charrnn.scores import Score
    from charrnn.training.events import Evaluated, RolledBack, StepDone
    from charrnn.training.ngram_counting import Counted

__all__ = [
    "CharRNNError",
    "Counted",
    "Ensemble",
    "Evaluated",
    "Filling",
    "MisuseError",
    "RolledBack",
    "Sample",
    "Score",
    "States",
    "StepDone",
    "TextModel",
    "TrainedRun",
    "__version__",
    "ensemble",
    "load",
    "train",
]


def load(path: str | PathLike[str] | None = None, *, network: bool = False) -> TextModel:
    """Load a model from a run folder, a model file or a name under ./checkpoints; by default the newest run there. Of a
    mixture of a network and an n-gram model, load with `network` the network alone.

    Raises CharRNNError if there is none or the file is damaged.
    """
    from charrnn.api import TextModel

    return TextModel(path, network=network)


if not TYPE_CHECKING:  # NumPy, and for the reports of a training torch, are loaded when a name is first used
    _HOMES = {
        "TextModel": "api",
        **dict.fromkeys(("Ensemble", "ensemble"), "api_ensemble"),
        **dict.fromkeys(("TrainedRun", "train"), "api_training"),
        "Filling": "generation.infill",
        "Sample": "generation.sampling",
        "States": "inspection.states",
        "Score": "scores",
        **dict.fromkeys(("Evaluated", "RolledBack", "StepDone"), "training.events"),
        "Counted": "training.ngram_counting",
    }

    def __getattr__(name: str):
        if name not in _HOMES:
            raise AttributeError(f"module 'charrnn' has no attribute {name!r}")
        from importlib import import_module

        return getattr(import_module(f"charrnn.{_HOMES[name]}"), name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
