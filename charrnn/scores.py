"""Scores: summed nats and exact counts, divided once, at the end; and what baselines score.
Knows nothing of models or text."""

from __future__ import annotations

import math
from dataclasses import dataclass

NATS_PER_BIT = math.log(2.0)


@dataclass(frozen=True)
class Baselines:
    """Hold what simpler models need for one text, in nats; `ngram` is of order `order`. None was not reckoned."""

    characters: int
    uniform: float
    unigram: float
    xz: float | None = None
    ngram: float | None = None
    order: int | None = None

    @property
    def whole(self) -> bool:
        """Say whether nothing is missing."""
        return self.xz is not None and self.ngram is not None

    def named(self) -> dict[str, float]:
        """Give what there is in nats, by name."""
        names = {"uniform": self.uniform, "unigram": self.unigram, "xz": self.xz, "ngram": self.ngram}
        return {name: nats for name, nats in names.items() if nats is not None}

    def fields(self) -> dict[str, dict[str, float | int]]:
        """Give what there is as JSON has it: an object a baseline."""
        found: dict[str, dict[str, float | int]] = {
            name: {"nats": nats, "bits_per_character": nats / NATS_PER_BIT / max(1, self.characters)}
            for name, nats in self.named().items()
        }
        if self.order is not None:
            found["ngram"]["order"] = self.order
        return found


@dataclass(frozen=True)
class BaselineScores:
    """Hold how often each character of the vocabulary comes in the training part (V), and what simpler models need for
    the held-out parts; None for a test part that has no character."""

    counts: tuple[int, ...]
    validation: Baselines
    test: Baselines | None = None


@dataclass(frozen=True)
class Score:
    """Hold the cost of some characters: `nats` in all, how many `characters`, how many were the likeliest."""

    nats: float = 0.0
    characters: int = 0
    correct: int = 0

    def __add__(self, other: Score) -> Score:
        return Score(self.nats + other.nats, self.characters + other.characters, self.correct + other.correct)

    @property
    def fields(self) -> dict[str, float | int]:
        """Give what JSON says of it."""
        return {
            "characters": self.characters,
            "nats": self.nats,
            "bits_per_character": self.bits_per_character,
            "perplexity": self.perplexity,
            "accuracy": self.accuracy,
        }

    @property
    def bits(self) -> float:
        """Give the total cost in bits."""
        return self.nats / NATS_PER_BIT

    @property
    def bits_per_character(self) -> float:
        """Give the mean cost of a character in bits; nan of no characters."""
        return self.bits / self.characters if self.characters else math.nan

    @property
    def perplexity(self) -> float:
        """Give 2 to the bits per character: among how many equal choices the model hesitates."""
        bits = self.bits_per_character
        return math.inf if bits >= 1024 else float(2.0**bits)

    @property
    def accuracy(self) -> float:
        """Give the share of characters that the model held for the likeliest; nan of no characters."""
        return self.correct / self.characters if self.characters else math.nan
