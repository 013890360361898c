"""The Python interface: load a model, write with it, score with it.
Everything else of the package is the house's own and may move."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

from charrnn import beam, decoder, infill, lines, text
from charrnn.filters import Filters
from charrnn.infill import Filling, Gapped
from charrnn.metrics import Score
from charrnn.sample import MIN_P, TEMPERATURE, Sample, Writer


class TextModel:
    """A trained model that writes and scores text, on the CPU. Made by `charrnn.load`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._model, self._vocabulary = decoder.load(path)

    @property
    def characters(self) -> str:
        """Give the characters that the model knows: those of its training part, most frequent first, then others."""
        return self._vocabulary.characters

    def sample(
        self,
        prime: str = "",
        length: int = 500,
        *,
        temperature: float = TEMPERATURE,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = MIN_P,
        greedy: bool = False,
        until: str | None = None,
        seed: int | None = None,
    ) -> str:
        """Write on from `prime` and give the continuation, at most `length` characters.

        The same seed gives the same text as `charrnn sample --seed`. Raises MisuseError for a value out of range.
        """
        filters = Filters(temperature, top_k, top_p, min_p, greedy)
        return "".join(self._flow(prime, length, filters, until, seed))

    def stream(
        self,
        prime: str = "",
        length: int = 500,
        *,
        until: str | None = None,
        seed: int | None = None,
        filters: Filters | None = None,
    ) -> Iterator[str]:
        """Do the same as `sample`, but give each character as it is made."""
        return self._flow(prime, length, filters or Filters(TEMPERATURE, min_p=MIN_P), until, seed)

    def search(self, prime: str = "", length: int = 500, *, width: int = 20, until: str | None = None) -> list[Sample]:
        """Find the `width` likeliest continuations of `prime` by beam search, best first; see `beam.search`."""
        return beam.search(self._model, self._vocabulary, prime, length, width, until)

    def infill(
        self, content: str, num: int = 1, *, blanks: str = infill.BLANKS, width: int = infill.WIDTH
    ) -> list[Filling]:
        """Fill every gap of a text, runs of characters of `blanks`, in the `num` best ways; see `infill.fill`.

        Raises MisuseError for a text without a gap.
        """
        return infill.fill(self._model, self._vocabulary, Gapped.parse(content, blanks), num, width)

    def score(self, content: str) -> Score:
        """Score a text as one piece that follows a newline, exactly: nats, characters, bits_per_character, accuracy."""
        text.check_characters(content, "text")
        return lines.side_by_side(self._model, self._vocabulary, [self._vocabulary.encode(content)])[0]

    def _flow(self, prime: str, length: int, filters: Filters, until: str | None, seed: int | None) -> Iterator[str]:
        seed = secrets.randbelow(2**31) if seed is None else seed
        writer = Writer(self._model, self._vocabulary, [prime], length, filters, seed=seed, indices=[0], until=until)
        return (shown for (shown,) in writer if shown)
