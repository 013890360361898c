"""Scores: summed nats and exact counts, divided once, at the end.
Knows nothing of models or text."""

from __future__ import annotations

import math
from dataclasses import dataclass

NATS_PER_BIT = math.log(2.0)


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
