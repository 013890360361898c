"""The page: one HTML file with a text, a model's weights and what was measured of it, and the scripts that show them.
Asks for no network. Knows the parts of the page, not what they show."""

from __future__ import annotations

import base64
import html
import math
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from charrnn.checkpoints import half
from charrnn.models.interface import Floats
from charrnn.strict_json import to_json
from charrnn.version import VERSION

if TYPE_CHECKING:
    from charrnn.checkpoints.model_file import Header

# each needs only those before it, and the last one starts them
SCRIPTS: tuple[str, ...] = ("cells", "weights", "network", "app", "charts", "plots", "text", "unrolled", "reach")
SCRIPTS += ("saliency", "gates", "errors", "write", "start")
STYLES: tuple[str, ...] = ("page", "charts")
_FOLDER = Path(__file__).with_name("page")
_OPTIONS: tuple[str, ...] = ("cell", "activation", "hidden_size", "num_layers", "embedding_size", "bidirectional")
_OPTIONS += ("residual", "layer_norm", "leak", "time_skip", "order")


@dataclass(frozen=True)
class PageModel:
    """The model of a page: its name, a line that describes it, its header, and the weights of its network by name ({}
    for an n-gram model)."""

    name: str
    description: str
    header: Header
    weights: Mapping[str, Floats] = field(default_factory=dict)


def build(
    title: str,
    model: PageModel,
    *,
    text: str = "",
    tables: Mapping[str, Any] | None = None,
    tensors: Mapping[str, Floats] | None = None,
) -> str:
    """Return the page, whose views show what there is: a text, tables by the name of their view, and tensors that
    belong to tables.

    Raises CharRNNError for a weight that fp16 cannot hold.
    """
    settings, vocabulary = model.header.config.model, model.header.vocabulary
    stored = half.rounded({**model.weights, **(tensors or {})})
    data = {
        "title": title,
        "version": VERSION,
        "model": {
            "name": model.name,
            "description": model.description,
            **{option: getattr(settings, option) for option in _OPTIONS},
            "tie_weights": settings.tied,
            "mixture": model.header.mixture is not None,
        },
        "vocabulary": {
            "characters": vocabulary.characters,
            "boundary": vocabulary.boundary,
            "known_nats": vocabulary.known_nats,
            "escape_nats": vocabulary.escape_nats,
        },
        "text": text,
        "tensors": [{"name": name, "shape": array.shape} for name, array in stored.items()],
        "tables": tables or {},
    }
    parts = {
        "title": html.escape(title),
        "style": "\n".join(_read(f"{name}.css") for name in STYLES),
        "data": embeddable(data),
        "weights": packed(stored),
        "scripts": "\n".join(f"<script>\n{_read(f'{name}.js')}</script>" for name in SCRIPTS),
    }
    # in one pass: no part is searched for the names of others
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], _read("page.html"))


def embeddable(data: Any) -> str:
    """Write JSON that can stand in a script element: without a "<", which alone could end it, and in UTF-8."""
    return re.sub("[<\u2028\u2029\ud800-\udfff]", lambda found: f"\\u{ord(found[0]):04x}", to_json(data))


def packed(arrays: Mapping[str, Floats]) -> str:
    """Pack fp16 arrays as text: all their low bytes, then all high bytes, which repeat, deflated, in base64."""
    count = sum(math.prod(array.shape) for array in arrays.values())
    planes = np.empty((2, count), np.uint8)
    first = 0
    for array in arrays.values():
        planes[:, first : first + array.size] = array.astype("<f2").reshape(-1, 1).view(np.uint8).T
        first += array.size
    deflate = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return base64.b64encode(deflate.compress(planes.tobytes()) + deflate.flush()).decode("ascii")


def _read(name: str) -> str:
    return (_FOLDER / name).read_text("utf-8")
