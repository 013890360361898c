"""Sampling: text drawn from a model, streamed, in batches, from any prime, until a given text appears.
Knows models and characters, not files. Shapes: B batch rows, T steps, V vocabulary."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import StringIO
from typing import Literal

import numpy as np
import numpy.typing as npt

from charrnn.config.limits import FILE_BOUNDARY
from charrnn.data.decoding import check_characters
from charrnn.data.vocabulary import Vocabulary
from charrnn.errors import MisuseError
from charrnn.generation.backtracking import MAX_BACKTRACK, BacktrackStack, ChoicePoint
from charrnn.generation.copying import CopyIndex, RepeatTracker
from charrnn.generation.filters import Filters
from charrnn.generation.patterns import Pattern, PatternProgress
from charrnn.generation.primes import ReadPrimes, step
from charrnn.generation.stop_texts import StopTexts, Until
from charrnn.models import likelihood
from charrnn.models.cells import softmax
from charrnn.models.interface import Floats, LanguageModel, ModelState, Tokens
from charrnn.scores import NATS_PER_BIT

# the settings whose samples are closest to real text (docs/results.md)
TEMPERATURE = 1.0
MIN_P = 0.02
_MAX_UNSCORED = 1 << 16  # logits

Logits = npt.NDArray[np.float64]
# document: at the boundary; pattern: nothing could follow; exhausted: every other character would have been a copy or
# repeat
Ending = Literal["until", "document", "length", "pattern", "exhausted"]
_Written = tuple["_PartialSample | None", int, int]  # a sample, a position in it, the token there
_NOTHING: _Written = (None, 0, 0)


@dataclass(frozen=True)
class Sample:
    """One finished continuation, with its negative log-likelihood under the unfiltered model at temperature 1."""

    prime: str
    text: str  # "" where it was only streamed
    nats: float
    seed: int | None  # None where nothing was drawn
    index: int
    characters: int  # of the continuation
    ended_by: Ending = "length"
    line: int = 0  # of many primes

    @property
    def bits_per_character(self) -> float | None:
        """Return the mean over the written characters; None where there are none."""
        return self.nats / NATS_PER_BIT / self.characters if self.characters else None


class _PartialSample:
    """One sample as it grows.

    `pending` is held back, since it may begin a stop text or may still be taken back: its characters, and the state of
    `stops` before each. All before it is final, and kept only where `keep_text` asks for it.
    """

    def __init__(
        self,
        prime: str,
        draws: Iterator[float],
        stops: StopTexts,
        length: int,
        *,
        depth: int,
        reach: int,
        keep_until: bool,
        keep_text: bool,
        pattern: PatternProgress | None,
    ) -> None:
        self.prime, self.draws, self.stops, self.keep_until = prime, draws, stops, keep_until
        self.depth, self.reach, self.pattern = depth, reach, pattern
        self.pending, self.matched = deque[tuple[str, int]](), stops.after(prime)
        # newlines that may come before a document, after the two that end the one before
        starts = (stops.boundary + prime).endswith(stops.boundary)
        self.leading = length if stops.boundary == "\n\n" and starts and pattern is None else 0
        self.done = False
        self.ended_by: Ending = "length"
        self.length = 0  # characters written
        self.characters, self.new = 0, ""  # how many are final, and those that were not streamed yet
        self.kept = StringIO() if keep_text else None
        self.recent = prime[max(0, len(prime) - reach) :]  # the last characters, for `last`
        self.nats, self._scored = 0.0, list[float]()  # of the first characters in sum, and of each later one
        self._summed = 0  # how many are in the sum
        self.stack = BacktrackStack(depth) if depth else None
        self.repeats: RepeatTracker | None = None
        if pattern is not None and pattern.ends:
            self._finish("pattern")

    def start(self, read: ReadPrimes) -> int:
        """Start after its prime; return the row of that."""
        row = read.rows[self.prime]
        if self.stack is not None:
            self.stack.push(ChoicePoint(read.before, row, int(read.last[row])))
        if read.repeats:
            self.repeats = read.repeats[row].branch()
        return row

    def skip(self, character: str) -> bool:
        """Say whether a character is a newline before the document, which is read, but not written."""
        if character != "\n" or self.length or not self.leading:
            return False
        self.leading -= 1
        if self.stack is not None:
            self.stack.points.clear()  # what is not written cannot be taken back
        return True

    def write(self, character: str, length: int) -> None:
        """Append a character; the sample ends at a stop text or when it has `length` characters."""
        shown = self.stops.shown(character)
        self.pending.append((shown, self.matched))
        self.matched = self.stops.step(self.matched, shown)
        self.length += 1
        if self.reach:
            self.recent = (self.recent + character)[-self.reach :]
        if self.repeats is not None:
            self.repeats.add(shown)
        if found := self.stops.found[self.matched]:
            document = self.stops.ends_document(self.matched)
            found = found if self.pattern is None else self.pattern.cut(found)
            cut = 0 if self.keep_until and not document else min(found, len(self.pending))  # it may begin in the prime
            for _ in range(cut):
                self.pending.pop()
            self._finish("document" if document else "until")
        elif self.length == length:
            self._finish("length")
        elif self.pattern is not None and self.pattern.ends:
            self._finish("pattern")
        elif (final := len(self.pending) - max(self.stops.held[self.matched], self.depth)) > 0:
            self._release(final)
            if self.stack is not None:
                self.stack.dead_ends = 0

    def backtrack(self) -> ChoicePoint | None:
        """Take back its last characters at a dead end; return the position to write anew, or None after giving up."""
        assert self.stack is not None
        count = self.stack.backtrack()
        if count is None:
            self._finish("exhausted")
            return None
        for _ in range(count):
            _, self.matched = self.pending.pop()
        self.length, self.recent = self.length - count, self.recent[: len(self.recent) - count]
        if self.repeats is not None:
            self.repeats.remove(count)
        if self.pattern is not None:
            self.pattern.remove(count)
        return self.stack.points[-1]

    def stream(self) -> str:
        """Return what became final since the last call."""
        new, self.new = self.new, ""
        return new

    def last(self, count: int) -> str:
        """Return the last characters, the prime's included: `count`, or fewer where there are fewer."""
        return self.recent[-count:]

    def score(self, position: int, nats: float) -> None:
        """Note the nats of a character; what stood there was taken back, with all after it."""
        self._scored[position - self._summed :] = [nats]

    def sum_nats(self) -> None:
        """Add up the nats of what is final."""
        final = self.characters - self._summed
        self.nats, self._summed = sum(self._scored[:final], self.nats), self.characters
        del self._scored[:final]

    def _release(self, count: int) -> None:
        text = "".join(self.pending.popleft()[0] for _ in range(count))
        self.characters, self.new = self.characters + count, self.new + text
        if self.kept is not None:
            self.kept.write(text)

    def _finish(self, ended_by: Ending) -> None:
        self._release(len(self.pending))
        self.done, self.ended_by = True, ended_by


def check_request(primes: Sequence[str], length: int) -> None:
    """Raise MisuseError for a length below 1, CharRNNError for a prime with a lone surrogate."""
    if length < 1:
        raise MisuseError(f"length is {length}; it must be at least 1.")
    for prime in set(primes):
        check_characters(prime, "prime")


def _uniform(seed: int, line: int | None, index: int) -> Iterator[float]:
    """Yield the uniform numbers of one stream, drawn in blocks."""
    stream = np.random.default_rng([seed, index] if line is None else [seed, line, index])
    while True:
        yield from stream.random(256).tolist()


class Sampler:
    """Continue B primes in one batch; iterate for what each sample adds at each step, then read `samples`.

    Sample i draws from the random stream (seed, indices[i]) alone, or (seed, lines[i], indices[i]) where there are
    `lines`, so it does not depend on the rest of the batch.
    A `document` ends at the boundary, which is not written, unless `until` ends it before.
    No character completes a run that `no_copy` indexes, nor repeats a run of `no_repeat` characters of the same sample.
    At a dead end a sample backtracks, so it is streamed up to MAX_BACKTRACK characters late.
    With a `pattern`, the whole of what a sample keeps matches it, unless it ends exhausted: characters that cannot lead
    there are masked at each step, and a stop text ends a sample only where what is before it matches.
    Time is linear in the length. Memory is bounded, except for `no_repeat`, which indexes all runs of a sample, and for
    the text: without `keep_text` it is only streamed, and that of `samples` is empty. Several batches can share the
    primes that were `read`, with the same `no_repeat`.
    Raises MisuseError for a `no_repeat` below 2, for a `pattern` that cannot be met or stands beside `keep_until`, and
    what `check_request` and StopTexts raise.
    """

    def __init__(
        self,
        model: LanguageModel,
        vocabulary: Vocabulary,
        primes: Sequence[str],
        length: int,
        filters: Filters,
        *,
        seed: int,
        indices: Sequence[int],
        lines: Sequence[int] | None = None,
        until: Until = None,
        keep_until: bool = False,
        document: bool = False,
        no_copy: CopyIndex | None = None,
        no_repeat: int | None = None,
        pattern: Pattern | None = None,
        keep_text: bool = True,
        read: ReadPrimes | None = None,
    ) -> None:
        check_request(primes, length)
        self.model, self.vocabulary, self.filters, self.read = model, vocabulary, filters, read
        self.length, self.seed = length, seed
        self.indices, self.lines = indices, [None] * len(indices) if lines is None else lines
        self.no_copy, self.no_repeat = no_copy, no_repeat
        depth = min(max(0 if no_copy is None else no_copy.size, no_repeat or 0), MAX_BACKTRACK)
        self._backtracks = depth > 0
        self._last_of_boundary = vocabulary.encode(vocabulary.boundary[-1])
        stops = StopTexts(until, vocabulary.boundary if document else "")
        reach = 0 if no_copy is None else no_copy.size + depth
        automaton = None if pattern is None else pattern.automaton(vocabulary, stops, keep_until=keep_until)
        self._masks = automaton is not None
        self.partial_samples = [
            _PartialSample(
                prime,
                _uniform(seed, line, index),
                stops,
                length,
                depth=depth,
                reach=reach,
                keep_until=keep_until,
                keep_text=keep_text,
                pattern=None if automaton is None else PatternProgress(automaton, prime, length, depth),
            )
            for prime, line, index in zip(primes, self.lines, indices, strict=True)
        ]
        self._unscored: list[tuple[Logits, list[_Written]]] = []  # logits (B, V) and what was written by each row

    @property
    def samples(self) -> list[Sample]:
        """Return what was written, in the order of the primes."""
        self._score_pending()
        return [
            Sample(
                one.prime,
                "" if one.kept is None else one.kept.getvalue(),
                one.nats,
                self.seed,
                index,
                one.characters,
                one.ended_by,
                line or 0,
            )
            for one, line, index in zip(self.partial_samples, self.lines, self.indices, strict=True)
        ]

    def __iter__(self) -> Iterator[list[str]]:
        rows = [partial for partial in self.partial_samples if not partial.done]  # the sample in each batch row
        if not rows:
            return
        primes = [partial.prime for partial in rows]
        read = self.read or ReadPrimes(self.model, self.vocabulary, primes, self.no_repeat)
        starts = np.array([partial.start(read) for partial in rows])
        logits, state = read.logits[starts], read.state.select(starts)
        while True:
            tokens = self._choose(logits, rows)
            returns = self._write(logits, tokens, rows)
            yield [partial.stream() for partial in self.partial_samples]
            running = [row for row, partial in enumerate(rows) if not partial.done]
            if not running:
                return
            if returns or len(running) < len(rows):
                state = _next_state(state, returns, running, len(rows))
                rows, tokens = [rows[row] for row in running], tokens[running]
            before = state
            logits, state = step(self.model, tokens[:, None], before)
            if self._backtracks:
                for row, (earlier_row, partial) in enumerate(zip(running, rows, strict=True)):
                    if earlier_row not in returns and partial.stack is not None:
                        partial.stack.push(ChoicePoint(before, row, int(tokens[row])))

    def _choose(self, logits: Logits, rows: Sequence[_PartialSample]) -> Tokens:
        """Draw a token for each row (B) by inverting the cumulative distribution; -1 at a dead end."""
        draws = np.array([next(partial.draws) for partial in rows])
        if self._masks:
            masks = [partial.pattern.mask() for partial in rows if partial.pattern is not None]
            logits = logits + np.concatenate(masks).reshape(logits.shape)  # far faster than np.stack
        if self._backtracks:
            return self._choose_permitted(logits, draws, rows)
        cumulative = self.filters(logits).cumsum(-1)
        return np.asarray((cumulative > draws[:, None] * cumulative[:, -1:]).argmax(-1))

    def _choose_permitted(self, logits: Logits, draws: Floats, rows: Sequence[_PartialSample]) -> Tokens:
        """Do the same among the tokens that complete no forbidden run."""
        copies = [np.empty(0, dtype=np.uint32)] * len(rows)
        if self.no_copy is not None:
            copies = self.no_copy.completions([partial.last(self.no_copy.size) for partial in rows])
        filtered, unfiltered = self.filters(logits), softmax(logits, self.filters.temperature)
        chosen = np.full(len(rows), -1)
        for row, partial in enumerate(rows):
            forbidden = self.vocabulary.encode_codes(copies[row])
            if partial.repeats is not None:
                repeats = partial.repeats.completions()
                repeats += FILE_BOUNDARY * ("\n" in repeats)  # which is written as one
                forbidden = np.append(forbidden, self.vocabulary.encode(repeats))
            forbidden = forbidden[forbidden != self.vocabulary.escape]
            if partial.stops.completes_document(partial.matched):
                forbidden = forbidden[forbidden != self._last_of_boundary]
            assert partial.stack is not None
            draw = None if self.filters.greedy else float(draws[row])
            token = partial.stack.choose(filtered[row], unfiltered[row], forbidden, draw)
            chosen[row] = -1 if token is None else token
        return chosen

    def _write(self, logits: Logits, tokens: Tokens, rows: Sequence[_PartialSample]) -> dict[int, ChoicePoint]:
        """Write the chosen tokens; return the rows that backtrack, and where each returns to.

        Changes `tokens` (B) in place to what each row reads next.
        """
        written, returns = [_NOTHING] * len(rows), dict[int, ChoicePoint]()
        for row, partial in enumerate(rows):
            if tokens[row] >= 0:
                character = self.vocabulary.characters[tokens[row]]
                if not partial.skip(character):
                    written[row] = partial, partial.length, int(tokens[row])
                    if partial.pattern is not None:
                        partial.pattern.add(int(tokens[row]))
                    partial.write(character, self.length)
            elif (point := partial.backtrack()) is not None:
                returns[row], tokens[row] = point, point.token
        self._unscored.append((logits, written))
        if len(self._unscored) * logits.size >= _MAX_UNSCORED:
            self._score_pending()
        return returns

    def _score_pending(self) -> None:
        """Score what was written since the last time, many steps at once: each call costs as much as a step."""
        if self._unscored:
            logits = np.concatenate([each for each, _ in self._unscored])
            written = [entry for _, entries in self._unscored for entry in entries]
            nats = likelihood.target_nats(self.vocabulary, logits, np.array([token for _, _, token in written]))
            for (partial, position, _), one in zip(written, nats.tolist(), strict=True):
                if partial is not None:
                    partial.score(position, one)
            for partial in self.partial_samples:
                partial.sum_nats()
            self._unscored.clear()


def _next_state(state: ModelState, returns: dict[int, ChoicePoint], running: list[int], count: int) -> ModelState:
    """Select the running ones of `count` rows; those that backtrack come from the states that they return to."""
    source, earlier = list(range(count)), list[ModelState]()
    for row, point in returns.items():
        source[row] = count + len(earlier)
        earlier.append(point.state.select(np.array([point.row])))
    if earlier:
        state = state.joined(earlier)
    return state.select(np.array(source)[running])
