"""Scores: sums of nats and exact counts, divided once, at the end; and the scores of baselines.
Knows neither models nor texts."""

from __future__ import annotations

import math
from dataclasses import dataclass

NATS_PER_BIT = math.log(2.0)


@dataclass(frozen=True)
class Baselines:
    """The nats of one text under each baseline, and the order of the n-gram model; None where not computed."""

    characters: int
    uniform: float
    unigram: float
    xz: float | None = None
    ngram: float | None = None
    order: int | None = None

    @property
    def complete(self) -> bool:
        """Whether every baseline was computed."""
        return self.xz is not None and self.ngram is not None

    @property
    def ngram_bits(self) -> float | None:
        """The n-gram model's bits per character, if it was computed."""
        return None if self.ngram is None else self.ngram / NATS_PER_BIT / max(1, self.characters)

    def by_name(self) -> dict[str, float]:
        """Return the nats of each computed baseline, by name."""
        every = {"uniform": self.uniform, "unigram": self.unigram, "xz": self.xz, "ngram": self.ngram}
        return {name: nats for name, nats in every.items() if nats is not None}

    def fields(self) -> dict[str, dict[str, float | int]]:
        """Return the computed baselines as JSON objects, by name."""
        computed: dict[str, dict[str, float | int]] = {
            name: {"nats": nats, "bits_per_character": nats / NATS_PER_BIT / max(1, self.characters)}
            for name, nats in self.by_name().items()
        }
        if self.order is not None:
            computed["ngram"]["order"] = self.order
        return computed


@dataclass(frozen=True)
class BaselineScores:
    """The count of each character in the training split (V), and the baselines of the held-out splits that have any."""

    counts: tuple[int, ...]
    validation: Baselines
    test: Baselines | None = None


@dataclass(frozen=True)
class Score:
    """The total negative log-likelihood of some characters, and how many of them were predicted as likeliest."""

    nats: float = 0.0
    characters: int = 0
    correct: int = 0

    def __add__(self, other: Score) -> Score:
        return Score(self.nats + other.nats, self.characters + other.characters, self.correct + other.correct)

    @property
    def fields(self) -> dict[str, float | int]:
        """Return the score as a JSON object."""
        return {
            "characters": self.characters,
            "nats": self.nats,
            "bits_per_character": self.bits_per_character,
            "perplexity": self.perplexity,
            "accuracy": self.accuracy,
        }

    @property
    def bits(self) -> float:
        """The total negative log-likelihood in bits."""
        return self.nats / NATS_PER_BIT

    @property
    def bits_per_character(self) -> float:
        """The mean negative log-likelihood in bits; nan if there are no characters."""
        return self.bits / self.characters if self.characters else math.nan

    @property
    def perplexity(self) -> float:
        """2 to the power of the bits per character."""
        bits = self.bits_per_character
        return math.inf if bits >= 1024 else float(2.0**bits)

    @property
    def accuracy(self) -> float:
        """The share of characters that the model predicted as likeliest; nan if there are no characters."""
        return self.correct / self.characters if self.characters else math.nan
