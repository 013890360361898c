"""Errors: where the bits of a text go, by class of character, and what oracles would have known.
Shapes: N characters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from charrnn.data.vocabulary import Vocabulary
from charrnn.evaluation.baselines import MAX_ON_DEMAND
from charrnn.inspection import characters, oracles
from charrnn.inspection.characters import Mask, mask
from charrnn.messages import Progress, no_progress
from charrnn.models.interface import Floats
from charrnn.scores import NATS_PER_BIT

RARE = 10  # times in the training text, below which a character is rare


@dataclass(frozen=True)
class Part:
    """Some characters of a text, the bits that they cost, and the share of the bits that this is."""

    name: str
    characters: int
    bits: float
    share: float


@dataclass(frozen=True)
class Errors:
    """Where the bits of a text go.

    bits     of all characters: exactly the sum of the classes in their order
    classes  each character is of one; those without any are left out
    oracles  each with the characters that it knows of those missed that none before it knows, and at last "none", what
             remains: together all missed characters, of p < 1/2, of whose bits each has a share
    """

    characters: int
    bits: float
    classes: tuple[Part, ...]
    oracles: tuple[Part, ...]

    def fields(self) -> dict[str, Any]:
        """Return everything as JSON has it."""
        return {
            "characters": self.characters,
            "bits": self.bits,
            "classes": [{"class": one.name, **_numbers(one)} for one in self.classes],
            "oracles": [{"oracle": one.name, **_numbers(one)} for one in self.oracles],
        }


def _numbers(part: Part) -> dict[str, Any]:
    return {"characters": part.characters, "bits": part.bits, "share": part.share}


def analyse(
    nats: Floats, text: str, training_text: str | None, *, boundary: str = "\n", progress: Progress = no_progress
) -> Errors:
    """Divide the nats (N) of a text by classes and by oracles.

    Of a longer training text the last MAX_ON_DEMAND characters are read; without one, a copy is the only oracle.
    Progress counts the training text, once for each order.
    """
    bits = np.asarray(nats, dtype=np.float64) / NATS_PER_BIT
    left, known = bits > 1.0, list[tuple[str, Mask]]()  # p < 1/2
    if training_text:
        training_text = training_text[-MAX_ON_DEMAND:]
        vocabulary = Vocabulary.from_text(training_text, boundary=boundary)
        training = vocabulary.encode(training_text)
        rare = np.bincount(training, minlength=len(vocabulary) + 1)[vocabulary.encode(text)] < RARE
        for name, knows in oracles.ngrams(vocabulary, training, text, progress):
            known.append((name, left & knows))
            left = left & ~knows
    else:
        counts = Counter(text)
        rare = mask(text, lambda character: counts[character] == 1)
    copied = oracles.copied(text, left)
    known += [("copy", copied), ("none", left & ~copied)]
    classes = _parts(_classes(text, rare), bits)
    return Errors(len(text), sum(one.bits for one in classes), tuple(classes), tuple(_parts(known, bits, empty=True)))


def _classes(text: str, rare: Mask) -> Iterator[tuple[str, Mask]]:
    """Yield the characters of each class (N), in order; each character is of the first one that fits."""
    newline = mask(text, characters.NEWLINES.__contains__)
    space, (start, inside) = mask(text, str.isspace), characters.words(text)
    fits = {
        "newline": newline,
        "space": space,
        "rare": rare,  # RARE times in the training text, or once in the text itself where there is none
        "word start": start,
        "inside a word": inside,
        "CJK": mask(text, characters.is_cjk),
        "digit": mask(text, str.isdigit),
        "punctuation": np.ones(len(text), dtype=bool),  # and symbols and controls
    }
    left = np.ones(len(text), dtype=bool)
    for name, fit in fits.items():
        yield name, left & fit
        left &= ~fit


def _parts(named: Iterable[tuple[str, Mask]], bits: Floats, *, empty: bool = False) -> list[Part]:
    """Add up the bits (N) of each part of a text; leave out those without characters, unless they may be `empty`."""
    sums = [(name, int(which.sum()), float(bits[which].sum())) for name, which in named if empty or which.any()]
    total = sum(bits for _, _, bits in sums)
    return [Part(*one, one[2] / total if total else 0.0) for one in sums]
