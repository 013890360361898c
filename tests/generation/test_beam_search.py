"""Claims about beam search, on four symbols: few enough that every text can be scored."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from charrnn.config.schema import ModelConfig
from charrnn.data.vocabulary import Vocabulary
from charrnn.errors import CharRNNError, MisuseError
from charrnn.generation import beam_search
from charrnn.generation.filters import Filters
from charrnn.generation.sampling import Sample, Sampler
from charrnn.models import torch_model
from charrnn.models.char_rnn import CharRNN
from charrnn.models.factory import make_model
from charrnn.models.interface import Floats, Tokens
from charrnn.models.torch_model import TorchModel

VOCABULARY = Vocabulary.from_text("abc\n" * 50)  # tokens by code point: \n a b c
LENGTH = 5
PRIMES = ["", "ab", "c鸟\na"]

every_model = pytest.mark.parametrize(
    ("cell", "bidirectional"), [*itertools.product(("rnn", "gru", "lstm"), (False, True))], ids=str
)


def made(cell: str = "lstm", bidirectional: bool = False, seed: int = 0) -> CharRNN:
    """Build a model in float64 with random weights, in training mode, so that its dropout is on."""
    values = {"cell": cell, "bidirectional": bidirectional, "hidden_size": 5, "num_layers": 2, "embedding_size": 3}
    model = make_model(
        ModelConfig.model_validate({**values, "dropout": 0.5, "tie_weights": False}), len(VOCABULARY)
    ).double()
    assert isinstance(model, CharRNN)
    generator = Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 1.0, generator=generator)
    return model


def logged(following: Mapping[str, Mapping[str, float]]) -> Tensor:
    """Return the log probabilities (V, V) of a Markov chain, from columns to rows.

    `start` is the context of the newline; unnamed characters share the remaining probability equally.
    """
    shares = torch.zeros(4, 4)
    for token, character in enumerate(VOCABULARY.characters):
        named = following.get("start" if character == "\n" else character, {})
        rest = (1.0 - sum(named.values())) / (4 - len(named)) if len(named) < 4 else 0.0
        shares[:, token] = torch.tensor([named.get(other, rest) for other in VOCABULARY.characters])
    return shares.log()


def chain(**following: Mapping[str, float]) -> CharRNN:
    """Build a Markov chain: in chain(a={"b": 0.9}), b follows a nine times in ten; see `logged`."""
    model = CharRNN(
        ModelConfig(cell="rnn", hidden_size=4, num_layers=1, embedding_size=4, dropout=0.0, tie_weights=False), 4
    ).double()
    with torch.no_grad():
        for weights in model.parameters():
            weights.zero_()
        model.embedding.copy_(torch.eye(4))
        model.get_parameter("layers.0.kernel.weight_ih_l0").copy_(20.0 * torch.eye(4))  # tanh(20) is 1
        model.get_parameter("head").copy_(logged(following))
    return model


@torch.no_grad()
def nats_of(model: CharRNN, prime: str, texts: list[str]) -> Tensor:
    """Score each character (R, T) of texts of one length in a single plain pass, in nats."""
    tokens = torch.tensor([VOCABULARY.encode(f"\n{prime}{text}").tolist() for text in texts])
    logits, _ = model.eval()(tokens[:, :-1], model.initial_state(len(texts)))
    logits, targets = logits[:, len(prime) :], tokens[:, len(prime) + 1 :]
    return -torch.log_softmax(logits, -1).gather(-1, targets[..., None])[..., 0] + VOCABULARY.known_nats


def enumerated(length: int) -> list[str]:
    return ["".join(characters) for characters in itertools.product(VOCABULARY.characters, repeat=length)]


def ranked(
    model: CharRNN, prime: str, length: int, until: Sequence[str] = (), *, keep_until: bool = False
) -> list[tuple[str, float]]:
    """Return every text of `length` characters or ended by one of `until`, with or without it, and its nats.

    The text with the lowest mean, the one of `until` included, comes first. That may begin in the prime. A text that
    several of `until` end comes once.
    """
    found = []
    for size in range(1 if until else length, length + 1):
        texts = enumerated(size)
        for text, nats in zip(texts, nats_of(model, prime, texts).numpy(), strict=True):
            ends = [end for end in range(1, size + 1) if (prime + text[:end]).endswith(tuple(until))]
            if ends == [size] or (not ends and size == length):
                longest = max((len(stop) for stop in until if (prime + text).endswith(stop)), default=0)
                end = size if keep_until else max(0, size - longest)
                found.append((nats.mean(), text[:end], nats[:end].sum()))
    best: dict[str, float] = {}
    for _, text, nats in sorted(found):
        best.setdefault(text, nats)
    return list(best.items())


def search(
    model: CharRNN,
    vocabulary: Vocabulary,
    prime: str,
    length: int,
    width: int,
    until: Sequence[str] = (),
    *,
    keep_until: bool = False,
) -> list[Sample]:
    return beam_search.search(TorchModel(model), vocabulary, prime, length, width, until, keep_until=keep_until)


def greedy(model: CharRNN, prime: str, length: int, until: str | None = None) -> Sample:
    sampler = Sampler(
        TorchModel(model), VOCABULARY, [prime], length, Filters(greedy=True), seed=0, indices=[0], until=until
    )
    for _ in sampler:
        pass
    return sampler.samples[0]


# every text


@every_model
@pytest.mark.parametrize("prime", PRIMES, ids=["empty", "known", "unknown"])
def test_a_beam_that_drops_nothing_ranks_all_texts_by_their_nats(cell: str, bidirectional: bool, prime: str) -> None:
    model = made(cell, bidirectional)
    expected = ranked(model, prime, LENGTH)
    found = search(model, VOCABULARY, prime, LENGTH, 4**LENGTH)
    assert [sample.text for sample in found] == [text for text, _ in expected]
    np.testing.assert_allclose([sample.nats for sample in found], [nats for _, nats in expected], rtol=1e-12)
    assert [(sample.prime, sample.seed, sample.index) for sample in found] == [
        (prime, None, index) for index in range(4**LENGTH)
    ]


@pytest.mark.parametrize("seed", range(5))
def test_a_beam_as_wide_as_all_prefixes_finds_the_likeliest_text(seed: int) -> None:
    model = made(seed=seed)
    found = search(model, VOCABULARY, "b", LENGTH, 4 ** (LENGTH - 1))
    assert len(found) == 4 ** (LENGTH - 1)
    assert found[0].text == ranked(model, "b", LENGTH)[0][0]


def test_a_wider_beam_finds_what_a_narrow_one_misses() -> None:
    # b is the likelier first step, but nothing likely follows; a is almost surely followed by c
    model = chain(start={"b": 0.55, "a": 0.4}, a={"c": 0.97}, b={"\n": 0.25, "a": 0.25, "b": 0.25, "c": 0.25})
    assert search(model, VOCABULARY, "", 2, 1)[0].text[0] == "b"
    assert search(model, VOCABULARY, "", 2, 2)[0].text == "ac"


@every_model
@pytest.mark.parametrize("until", [None, "c", "ab"])
def test_a_beam_of_one_is_greedy(cell: str, bidirectional: bool, until: str | None) -> None:
    for seed, prime in enumerate([*PRIMES, "a"]):
        model = made(cell, bidirectional, seed)
        (found,) = search(model, VOCABULARY, prime, 12, 1, [until] if until else [])
        expected = greedy(model, prime, 12, until)
        assert found.text == expected.text
        assert found.nats == pytest.approx(expected.nats, rel=1e-12)


def test_single_characters_come_in_order_of_probability() -> None:
    model = chain(start={"\n": 0.1, "a": 0.2, "b": 0.3, "c": 0.4})
    found = search(model, VOCABULARY, "", 1, 9)
    assert [sample.text for sample in found] == ["c", "b", "a", "\n"]
    assert [sample.nats for sample in found] == pytest.approx(
        [-math.log(share) + VOCABULARY.known_nats for share in (0.4, 0.3, 0.2, 0.1)], rel=1e-6
    )


# best continuations


def test_the_best_continuations_are_those_of_a_full_sort() -> None:
    generator = np.random.default_rng(0)
    for width in (1, 2, 7, 14, 15, 16):
        totals, nats = generator.random(3), generator.integers(0, 4, (3, 5)) / 4  # sums with many ties
        totals = np.round(totals * 4) / 4
        rows, tokens, sums = beam_search.best_continuations(totals, nats, width)
        every = sorted((totals[row] + nats[row, token], row, token) for row in range(3) for token in range(5))
        assert list(zip(sums, rows, tokens, strict=True)) == every[:width]


def test_ties_go_to_the_earlier_hypothesis_and_the_lower_token() -> None:
    totals, nats = np.array([1.0, 0.0]), np.array([[2.0, 1.0, 1.0], [3.0, 2.0, 2.0]])
    rows, tokens, sums = beam_search.best_continuations(totals, nats, 3)  # the third best ties with the fourth
    assert (rows.tolist(), tokens.tolist(), sums.tolist()) == ([0, 0, 1], [1, 2, 1], [2.0, 2.0, 2.0])


@pytest.mark.parametrize("width", [1, 2, 3, 50])
def test_what_is_impossible_is_no_continuation(width: int) -> None:
    totals = np.array([0.0, 1.0])
    nats = np.array([[np.inf, np.inf, 5.0], [np.inf, 1.0, np.inf]])
    rows, tokens, sums = beam_search.best_continuations(totals, nats, width)
    assert list(zip(rows, tokens, sums, strict=True)) == [(1, 1, 2.0), (0, 2, 5.0)][:width]
    assert all(len(part) == 0 for part in beam_search.best_continuations(totals, np.full((2, 3), np.inf), width))


# until


@every_model
@pytest.mark.parametrize("until", [["\n"], ["ab"], ["cac"], ["acb", "b", "aba\n", "cb"]])
@pytest.mark.parametrize("keep_until", [False, True])
def test_with_until_all_texts_are_ranked_by_their_mean_nats(
    cell: str, bidirectional: bool, until: list[str], keep_until: bool
) -> None:
    model = made(cell, bidirectional)
    expected = ranked(model, "ba", LENGTH, until, keep_until=keep_until)
    found = search(model, VOCABULARY, "ba", LENGTH, 4**LENGTH, until, keep_until=keep_until)
    assert [sample.text for sample in found] == [text for text, _ in expected]
    np.testing.assert_allclose([s.nats for s in found], [nats for _, nats in expected], rtol=1e-12, atol=1e-12)
    for sample in found:
        full = sample.prime + sample.text
        assert any(full.endswith(stop) for stop in until) or not keep_until or sample.ended_by == "length"
        assert sample.ended_by == "until" or len(sample.text) == LENGTH


def test_a_text_that_several_stop_texts_end_comes_once_and_takes_one_place() -> None:
    # "a" is followed by b, by c, or by a newline, and each of them ends it
    model = chain(start={"a": 0.8, "b": 0.1}, a={"b": 0.4, "c": 0.35, "\n": 0.2}, b={"b": 0.9})
    found = search(model, VOCABULARY, "", 3, 2, ["b", "c", "\n"])
    assert [sample.text for sample in found] == ["a", ""]
    with_stop = search(model, VOCABULARY, "", 3, 2, ["b", "c", "\n"], keep_until=True)
    assert [sample.text for sample in with_stop] == ["ab", "ac"]


def test_a_longer_text_wins_by_its_mean_although_it_is_less_likely() -> None:
    # \n at once: 1.2 nats for one character; abc\n: 1.6 nats for four
    model = chain(start={"\n": 0.3, "a": 0.3}, a={"b": 0.9}, b={"c": 0.9}, c={"\n": 0.8})
    short, long = (search(model, VOCABULARY, "", length, 4**4, "\n")[0] for length in (1, 4))
    assert (short.text, long.text) == ("", "abc")
    at_once, in_all = (float(nats_of(model, "", [text]).sum()) for text in ("\n", "abc\n"))
    assert at_once < in_all
    assert at_once > in_all / 4


def test_the_score_is_that_of_the_text_without_until() -> None:
    model = made()
    for sample in search(model, VOCABULARY, "c", 8, 20, ["ab"]):
        expected = nats_of(model, "c", [sample.text]).sum().item() if sample.text else 0.0
        assert sample.nats == pytest.approx(expected, rel=1e-12)
        assert (sample.bits_per_character is None) == (sample.text == "")


def test_a_text_that_ends_at_once_is_empty() -> None:
    (found,) = search(chain(start={"\n": 0.9}), VOCABULARY, "", 5, 1, "\n")
    assert (found.text, found.nats, found.bits_per_character) == ("", 0.0, None)


def test_where_no_hypothesis_ends_the_best_of_full_length_wins() -> None:
    model = made()
    never = "鸟"
    for width in (1, 3, 4**LENGTH):
        assert search(model, VOCABULARY, "a", LENGTH, width, never) == search(model, VOCABULARY, "a", LENGTH, width)
    assert search(model, VOCABULARY, "a", LENGTH, 3, "a" * (LENGTH + 1)) == search(model, VOCABULARY, "a", LENGTH, 3)


def test_until_may_begin_in_the_prime_as_in_sampling_but_not_end_there() -> None:
    model = chain(start={"c": 0.9}, a={"b": 0.9}, b={"c": 0.9}, c={"a": 0.9})
    for prime, text in (("ca", ""), ("cab", "c")):
        (found,) = search(model, VOCABULARY, prime, 20, 1, ["ab"])
        assert (found.text, found.ended_by) == (text, "until")
        assert greedy(model, prime, 20, "ab").text == found.text


def test_until_overlapping_itself_is_found() -> None:
    model = chain(start={"b": 0.9}, b={"b": 0.6, "c": 0.39})
    texts = [sample.text for sample in search(model, VOCABULARY, "", 6, 4**6, "bbc")]
    assert texts.index("bb") >= 0  # bbbbc: two more b than until has
    assert not any("bbc" in text for text in texts)


def test_the_search_continues_while_an_open_hypothesis_is_better_than_the_finished() -> None:
    # \n ends at once and a\n later: a beam of two has both before the third step
    model = chain(start={"a": 0.7, "\n": 0.28}, a={"b": 0.9, "\n": 0.09}, b={"c": 0.95}, c={"\n": 0.95})
    assert search(model, VOCABULARY, "", 50, 2, "\n")[0].text == "abc"


def test_the_search_stops_when_no_open_hypothesis_is_better_than_the_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    model = chain(start={"\n": 0.9, "a": 0.09}, a={"\n": 0.9})
    steps, step = 0, TorchModel.step

    def counted(
        self: TorchModel, tokens: Tokens, state: torch_model.TorchState
    ) -> tuple[Floats, torch_model.TorchState]:
        nonlocal steps
        steps += 1
        return step(self, tokens, state)

    monkeypatch.setattr(TorchModel, "step", counted)
    found = search(model, VOCABULARY, "", 10_000, 2, "\n")
    assert [sample.text for sample in found] == ["", "a"]
    assert 0 < steps < 5


# requests


def test_a_long_prime_read_in_windows_is_read_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    model, prime = made(), "abccab\nb" * 4
    expected = search(model, VOCABULARY, prime, 4, 9)
    monkeypatch.setattr(beam_search, "_WINDOW", 5)
    found = search(model, VOCABULARY, prime, 4, 9)
    assert [sample.text for sample in found] == [sample.text for sample in expected]
    assert [sample.nats for sample in found] == pytest.approx([sample.nats for sample in expected], rel=1e-12)


def test_a_search_is_deterministic_and_leaves_the_global_generator_alone() -> None:
    model, before = made("gru"), torch.get_rng_state()
    first = search(model.train(), VOCABULARY, "ab", 9, 6, "c")
    assert search(model.train(), VOCABULARY, "ab", 9, 6, "c") == first
    assert torch.equal(before, torch.get_rng_state())


def test_a_beam_wider_than_the_number_of_texts_returns_each_once() -> None:
    model = made()
    many, few = (search(model, VOCABULARY, "", 3, width) for width in (100, 64))
    assert many == few
    assert len(many) == 4**3


def test_primes_may_be_long_and_have_unknown_characters() -> None:
    model, odd, long = made(), "鸟🐦z", "abc" * 1_000
    found = search(model, VOCABULARY, odd, 3, 2)
    assert [(sample.prime, len(sample.text)) for sample in found] == [(odd, 3)] * 2
    (best,) = search(model, VOCABULARY, long, 3, 1)
    assert best.nats == pytest.approx(nats_of(model, long, [best.text]).sum().item(), rel=1e-12)


def test_bad_requests_are_refused_in_a_sentence() -> None:
    model = made()
    with pytest.raises(MisuseError, match="length is 0; it must be at least 1"):
        search(model, VOCABULARY, "", 0, 1)
    with pytest.raises(MisuseError, match="beam is 0; it must be at least 1"):
        search(model, VOCABULARY, "", 1, 0)
    with pytest.raises(MisuseError, match="until is empty"):
        search(model, VOCABULARY, "", 5, 1, "")
    with pytest.raises(CharRNNError, match=r"prime: character 1 is a lone surrogate \(U\+D800\)"):
        search(model, VOCABULARY, "a\ud800", 5, 1)


def test_a_document_whose_end_is_never_among_the_likeliest_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loop once kept the ends of all documents out, and was printed: 100,000 characters of it."""
    monkeypatch.setattr(beam_search, "_MOST_STEPS", 40)
    same = {"a": 0.5, "b": 0.4, "c": 0.04, "\n": 0.06}
    model = TorchModel(chain(start=same, a=same, b=same, c=same))
    found = beam_search.search(model, VOCABULARY, "", 100_000, 2, document=True)
    assert [(one.text, one.ended_by) for one in found] == [("", "document"), ("a", "document")]
    assert [one.nats for one in found] == pytest.approx([0.0, -math.log(0.5) + VOCABULARY.known_nats], abs=1e-6)
    found = beam_search.search(model, VOCABULARY, "", 3, 20, document=True)
    assert {one.ended_by for one in found[:4]} == {"document"}
