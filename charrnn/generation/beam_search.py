"""The likeliest text instead of a drawn one: beam search, deterministic, of any length or until a text appears.
Knows readers and characters, not files. Shapes: R hypotheses, V vocabulary."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from charrnn.data.decoding import check_characters
from charrnn.data.vocabulary import Vocabulary
from charrnn.errors import MisuseError
from charrnn.generation.sampling import Sample
from charrnn.models import likelihood
from charrnn.models.interface import Floats, LanguageModel, ModelState

Prices = npt.NDArray[np.float64]
_WINDOW = 1024


def best_continuations(
    totals: Prices, costs: Prices, width: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Prices]:
    """Go on from hypotheses that cost totals (R) with characters that cost `costs` (R, V).

    Gives the `width` cheapest ways (fewer where there are fewer), cheapest first, of equals the one of the earlier
    hypothesis and lower token: their hypotheses, tokens and new totals.
    """
    sums = (totals[:, None] + costs).ravel()
    if width < len(sums):
        border = np.partition(sums, width - 1)[width - 1]
        found = np.flatnonzero(sums <= border)
    else:
        found = np.arange(len(sums))
    found = found[np.isfinite(sums[found])]
    found = found[np.argsort(sums[found], kind="stable")][:width]
    return found // costs.shape[1], found % costs.shape[1], sums[found]


def read(model: LanguageModel, tokens: npt.NDArray[np.int64], state: ModelState) -> tuple[Floats, ModelState]:
    """Read one row of tokens (T) in windows; gives the features after the last one (1, F), and the state."""
    for first in range(0, len(tokens), _WINDOW):
        features, state = model.read(tokens[None, first : first + _WINDOW], state)
    return features[:, -1], state


def search(
    model: LanguageModel,
    vocabulary: Vocabulary,
    prime: str,
    length: int,
    width: int,
    until: str | None = None,
) -> list[Sample]:
    """Find likely continuations of a prime, `length` characters long or ended by `until`; the best first.

    At each step the `width` likeliest hypotheses are kept. Hypotheses of one length are compared by their probability;
    where `until` ends some sooner, by their mean price a character, `until` included. The search is over when no
    hypothesis still open is better than the worst of `width` ended ones. Raises MisuseError for a length or width below
    1 or an empty `until`; CharRNNError for a prime with a lone surrogate.
    """
    if length < 1:
        raise MisuseError(f"length is {length}; it must be at least 1.")
    if width < 1:
        raise MisuseError(f"beam is {width}; it must be at least 1.")
    if until == "":
        raise MisuseError("until is empty; name the text to stop before, or leave it out.")
    check_characters(prime, "prime")
    start = np.concatenate(([vocabulary.newline], vocabulary.encode(prime).astype(np.int64)))
    features, state = read(model, start, model.initial_state(1))
    costs = likelihood.all_nats(vocabulary, model.logits(features))
    totals, texts = np.zeros(1), [""]
    paid, tail = [(0.0,)], len(until or "") + 1  # paid: what the last prefixes of each cost
    ended: list[tuple[float, str, float]] = []  # mean price, text, its price
    for step in range(1, length + 1):
        rows, tokens, totals = best_continuations(totals, costs, width)
        texts = [texts[row] + vocabulary.characters[token] for row, token in zip(rows, tokens, strict=True)]
        paid = [(*paid[row], float(total))[-tail:] for row, total in zip(rows, totals, strict=True)]
        opened = []
        for place, text in enumerate(texts):
            if until is not None and text.endswith(until):
                ended.append((float(totals[place]) / step, text[: -len(until)], paid[place][0]))
            else:
                opened.append(place)
        ended = sorted(ended, key=lambda found: found[0])[:width]
        if not opened or step == length:
            break
        if len(ended) == width and totals[opened[0]] / step >= ended[-1][0]:
            opened = []
            break
        rows, tokens, totals = rows[opened], tokens[opened], totals[opened]
        texts, paid = [texts[place] for place in opened], [paid[place] for place in opened]
        logits, state = model.step(tokens[:, None], state.select(rows))
        costs = likelihood.all_nats(vocabulary, logits)
    ended += [(float(totals[place]) / step, texts[place], float(totals[place])) for place in opened]
    best = sorted(ended, key=lambda found: found[0])[:width]
    return [Sample(prime, text, nats, None, index) for index, (_, text, nats) in enumerate(best)]
