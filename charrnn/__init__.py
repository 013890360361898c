"""charrnn trains recurrent character-level language models on any text, generates text with them, and scores text.

model = charrnn.load("checkpoints/poems")
print(model.sample("我爱北京", length=100))
print(model.score("床前明月光").bits_per_character)
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from charrnn.errors import CharRNNError
from charrnn.version import VERSION as __version__

if TYPE_CHECKING:
    from charrnn.api import TextModel

__all__ = ["CharRNNError", "__version__", "load"]


def load(path: str | Path | None = None) -> TextModel:
    """Load a model from a run folder, a model file or a name under ./checkpoints; by default the newest run there.

    Raises CharRNNError if there is none or the file is damaged.
    """
    from charrnn.api import TextModel
    from charrnn.checkpoints.run_dir import find_model

    return TextModel(find_model(None if path is None else str(path)))
