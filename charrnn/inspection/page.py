"""The page: one HTML file with a text, a model's weights and what was measured of it, and the scripts that show them.
Asks for no network. Knows the parts of the page, not what they show."""

from __future__ import annotations

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
from charrnn.data.vocabulary import Vocabulary
from charrnn.models.interface import Floats
from charrnn.showable import shown
from charrnn.strict_json import to_json
from charrnn.version import VERSION

if TYPE_CHECKING:
    from charrnn.checkpoints.model_file import Header

# each needs only those before it, and the last one starts them
SCRIPTS: tuple[str, ...] = ("cells", "weights", "network", "run", "app", "charts", "plots", "text", "signals", "units")
SCRIPTS += ("equations", "unrolling", "unrolled", "reach", "saliency", "gates", "errors", "writer", "write", "start")
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
    belong to tables; their numbers are capped at the largest of fp16.

    Raises CharRNNError for a weight that fp16 cannot hold.
    """
    stored = half.rounded({**model.weights, **{name: capped(array) for name, array in (tensors or {}).items()}})
    data = {
        "title": title,
        "version": VERSION,
        "model": model_fields(model),
        "vocabulary": vocabulary_fields(model.header.vocabulary),
        "text": text,
        "tensors": [{"name": name, "shape": array.shape} for name, array in stored.items()],
        "tables": tables or {},
    }
    parts = {
        "title": html.escape(shown(title)),
        "style": "\n".join(read(f"{name}.css") for name in STYLES),
        "data": embeddable(data),
        "weights": packed(stored),
        "scripts": "\n".join(f"<script>\n{read(f'{name}.js')}</script>" for name in SCRIPTS),
    }
    # in one pass: no part is searched for the names of others
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], read("page.html"))


def model_fields(model: PageModel) -> dict[str, Any]:
    """Return what a page knows of a model, with None for a size that it does not have; a hidden Markov model has one
    layer."""
    settings = model.header.config.model
    options = {option: getattr(settings, option) for option in _OPTIONS}
    return {
        "name": model.name,
        "description": model.description,
        **{option: None if value == "auto" else value for option, value in options.items()},
        **({"num_layers": 1} if settings.cell == "hmm" else {}),
        "tie_weights": settings.tied,
        "mixture": model.header.mixture is not None,
    }


def vocabulary_fields(vocabulary: Vocabulary) -> dict[str, Any]:
    """Return what a page knows of a vocabulary."""
    names = ("characters", "boundary", "known_nats", "escape_nats")
    return {name: getattr(vocabulary, name) for name in names}


def embeddable(data: Any) -> str:
    """Write JSON that can stand in a script element: without a "<", which alone could end it, and in UTF-8."""
    return re.sub("[<\u2028\u2029\ud800-\udfff]", lambda found: f"\\u{ord(found[0]):04x}", to_json(data))


def capped(array: Floats) -> Floats:
    """Bring numbers into the range of fp16: gradients may be of any size, and are none where they are not numbers."""
    most = float(np.finfo(np.float16).max)
    return np.nan_to_num(array, posinf=most, neginf=-most).clip(-most, most)


def packed(arrays: Mapping[str, Floats]) -> str:
    """Pack fp16 arrays as text (see `in_ascii`): all their low bytes, then all high bytes, deflated."""
    count = sum(math.prod(array.shape) for array in arrays.values())
    planes = np.empty((2, count), np.uint8)
    first = 0
    for array in arrays.values():
        planes[:, first : first + array.size] = array.astype("<f2").reshape(-1, 1).view(np.uint8).T
        first += array.size
    # weights do not repeat, so a search for repeats would cost time and, where it finds some, bits
    deflate = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS, strategy=zlib.Z_HUFFMAN_ONLY)
    return in_ascii(deflate.compress(planes.tobytes()) + deflate.flush())


def in_ascii(data: bytes) -> str:
    """Write bytes as text that can stand in a script element, 4 as 5 characters: the digits of a number to the base of
    85, which are # to w, but ! for a "<". Before them stands how many bytes of the last four are none."""
    words = np.frombuffer(data + bytes(-len(data) % 4), ">u4").astype(np.uint32)
    digits = np.stack([words // 85**place % 85 for place in range(4, -1, -1)], 1).astype(np.uint8) + ord("#")
    return f"{-len(data) % 4}{digits.tobytes().decode('ascii').replace('<', '!')}"


def read(name: str) -> str:
    """Read a part of the page."""
    return (_FOLDER / name).read_text("utf-8")
