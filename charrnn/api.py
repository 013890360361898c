"""The Python interface: load a model, write with it, score with it.
Everything else of the package is the house's own and may move."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

from charrnn.checkpoints import inference
from charrnn.data import decoding
from charrnn.evaluation import short_texts
from charrnn.generation import beam_search, copying, infill
from charrnn.generation.copying import Copies
from charrnn.generation.filters import Filters
from charrnn.generation.infill import Filling, Gapped
from charrnn.generation.sampling import MIN_P, TEMPERATURE, Sample, Sampler
from charrnn.scores import Score


class TextModel:
    """A trained model that writes and scores text, on the CPU. Made by `charrnn.load`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._model, self._vocabulary = inference.load(path)
        self._copies: Copies | None = None

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
        no_copy: int | None = None,
        no_repeat: int | None = None,
        seed: int | None = None,
    ) -> str:
        """Write on from `prime` and give the continuation, at most `length` characters.

        It holds no run of `no_copy` characters that the training text has, and none of `no_repeat` characters twice;
        where nothing else can follow, it ends early. The same seed gives the same text as `charrnn sample --seed`.
        Raises MisuseError for a value out of range, CharRNNError for `no_copy` where the training text is gone.
        """
        filters = Filters(temperature, top_k, top_p, min_p, greedy)
        return "".join(self._flow(prime, length, filters, until, no_copy, no_repeat, seed))

    def stream(
        self,
        prime: str = "",
        length: int = 500,
        *,
        until: str | None = None,
        no_copy: int | None = None,
        no_repeat: int | None = None,
        seed: int | None = None,
        filters: Filters | None = None,
    ) -> Iterator[str]:
        """Do the same as `sample`, but give each character as it is made, or as it is certain to stay."""
        return self._flow(prime, length, filters or Filters(TEMPERATURE, min_p=MIN_P), until, no_copy, no_repeat, seed)

    def search(self, prime: str = "", length: int = 500, *, width: int = 20, until: str | None = None) -> list[Sample]:
        """Find the `width` likeliest continuations of `prime` by beam search, best first; see `beam.search`."""
        return beam_search.search(self._model, self._vocabulary, prime, length, width, until)

    def infill(
        self, content: str, num: int = 1, *, blanks: str = infill.BLANKS, width: int = infill.WIDTH
    ) -> list[Filling]:
        """Fill every gap of a text, runs of characters of `blanks`, in the `num` best ways; see `infill.fill`.

        Raises MisuseError for a text without a gap.
        """
        return infill.fill(self._model, self._vocabulary, Gapped.parse(content, blanks), num, width)

    def score(self, content: str) -> Score:
        """Score a text as one piece that follows a newline, exactly: nats, characters, bits_per_character, accuracy."""
        decoding.check_characters(content, "text")
        return short_texts.side_by_side(self._model, self._vocabulary, [self._vocabulary.encode(content)])[0]

    def _flow(
        self,
        prime: str,
        length: int,
        filters: Filters,
        until: str | None,
        no_copy: int | None,
        no_repeat: int | None,
        seed: int | None,
    ) -> Iterator[str]:
        sampler = Sampler(
            self._model,
            self._vocabulary,
            [prime],
            length,
            filters,
            seed=secrets.randbelow(2**31) if seed is None else seed,
            indices=[0],
            until=until,
            no_copy=None if no_copy is None else self._learnt(no_copy),
            no_repeat=no_repeat,
        )
        return (shown for (shown,) in sampler if shown)

    def _learnt(self, size: int) -> Copies:
        """Know the training text's runs of `size` characters; those of the last size asked for are kept."""
        if self._copies is None or self._copies.size != size:
            from charrnn.checkpoints import model_file, training_corpus

            copying.check_size(size)  # before a whole text is read
            lost = "Put it back, or leave out no_copy."
            learnt = training_corpus.find(model_file.read_header(self.path), self.path, lost).training.codes
            self._copies = Copies(learnt, size)
        return self._copies
