"""Claims about the likeliest text, on four symbols: few enough that every text can be priced."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

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

VOCABULARY = Vocabulary.of("abc\n" * 50)  # tokens by code point: \n a b c
LENGTH = 5
PRIMES = ["", "ab", "c鸟\na"]

every_model = pytest.mark.parametrize(
    ("cell", "bidirectional"), [*itertools.product(("rnn", "gru", "lstm"), (False, True))], ids=str
)


def made(cell: str = "lstm", bidirectional: bool = False, seed: int = 0) -> CharRNN:
    """Make a model in float64 with every weight drawn at random, and its dropout still on."""
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
    """Write down how likely each character follows each: log probabilities (V, V), from columns to rows.

    `start` follows the newline; what is not said shares the rest equally.
    """
    shares = torch.zeros(4, 4)
    for token, character in enumerate(VOCABULARY.characters):
        said = following.get("start" if character == "\n" else character, {})
        rest = (1.0 - sum(said.values())) / (4 - len(said)) if len(said) < 4 else 0.0
        shares[:, token] = torch.tensor([said.get(other, rest) for other in VOCABULARY.characters])
    return shares.log()


def chain(**following: Mapping[str, float]) -> CharRNN:
    """Make a Markov chain: chain(a={"b": 0.9}) follows a with b nine times in ten; see `logged`."""
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
def costs(model: CharRNN, prime: str, texts: list[str]) -> Tensor:
    """Price each character (R, T) of texts of one length in a single plain pass, in nats."""
    tokens = torch.tensor([[VOCABULARY.newline, *VOCABULARY.encode(prime + text).tolist()] for text in texts])
    logits, _ = model.eval()(tokens[:, :-1], model.initial_state(len(texts)))
    logits, targets = logits[:, len(prime) :], tokens[:, len(prime) + 1 :]
    return -torch.log_softmax(logits, -1).gather(-1, targets[..., None])[..., 0] + VOCABULARY.known_nats


def enumerated(length: int) -> list[str]:
    return ["".join(characters) for characters in itertools.product(VOCABULARY.characters, repeat=length)]


def ranked(model: CharRNN, prime: str, length: int, until: str | None = None) -> list[tuple[str, float]]:
    """Price every text there is, of `length` characters or ended by `until`; gives what is shown of each and its
    price, the cheapest a character first."""
    found = []
    for size in range(1 if until else length, length + 1):
        texts = enumerated(size)
        for text, paid in zip(texts, costs(model, prime, texts).numpy(), strict=True):
            place = text.find(until) if until is not None else -1
            ended = until is not None and place >= 0
            if (ended and place + len(until or "") == size) or (not ended and size == length):
                shown = place if ended else size
                found.append((paid.mean(), text[:shown], paid[:shown].sum()))
    return [(text, price) for _, text, price in sorted(found)]


def search(
    model: CharRNN, vocabulary: Vocabulary, prime: str, length: int, width: int, until: str | None = None
) -> list[Sample]:
    return beam_search.search(TorchModel(model), vocabulary, prime, length, width, until)


def greedy(model: CharRNN, prime: str, length: int, until: str | None = None) -> Sample:
    sampler = Sampler(
        TorchModel(model), VOCABULARY, [prime], length, Filters(greedy=True), seed=0, indices=[0], until=until
    )
    for _ in sampler:
        pass
    return sampler.samples[0]


# every text there is


@every_model
@pytest.mark.parametrize("prime", PRIMES, ids=["none", "known", "unknown"])
def test_a_beam_that_drops_nothing_orders_all_texts_as_they_are_priced(
    cell: str, bidirectional: bool, prime: str
) -> None:
    model = made(cell, bidirectional)
    expected = ranked(model, prime, LENGTH)
    found = search(model, VOCABULARY, prime, LENGTH, 4**LENGTH)
    assert [sample.text for sample in found] == [text for text, _ in expected]
    np.testing.assert_allclose([sample.nats for sample in found], [price for _, price in expected], rtol=1e-12)
    assert [(sample.prime, sample.seed, sample.index) for sample in found] == [
        (prime, None, index) for index in range(4**LENGTH)
    ]


@pytest.mark.parametrize("seed", range(5))
def test_a_beam_as_wide_as_all_prefixes_finds_the_likeliest_text(seed: int) -> None:
    model = made(seed=seed)
    found = search(model, VOCABULARY, "b", LENGTH, 4 ** (LENGTH - 1))
    assert len(found) == 4 ** (LENGTH - 1)
    assert found[0].text == ranked(model, "b", LENGTH)[0][0]


def test_a_wider_beam_finds_what_a_narrow_one_walks_past() -> None:
    # b is the likelier first step, and then nothing is likely; a leads to c for certain
    model = chain(start={"b": 0.55, "a": 0.4}, a={"c": 0.97}, b={"\n": 0.25, "a": 0.25, "b": 0.25, "c": 0.25})
    assert search(model, VOCABULARY, "", 2, 1)[0].text[0] == "b"
    assert search(model, VOCABULARY, "", 2, 2)[0].text == "ac"


@every_model
@pytest.mark.parametrize("until", [None, "c", "ab"])
def test_a_beam_of_one_is_greedy(cell: str, bidirectional: bool, until: str | None) -> None:
    for seed, prime in enumerate([*PRIMES, "a"]):
        model = made(cell, bidirectional, seed)
        (found,) = search(model, VOCABULARY, prime, 12, 1, until)
        expected = greedy(model, prime, 12, until)
        assert found.text == expected.text
        assert found.nats == pytest.approx(expected.nats, rel=1e-12)


def test_one_character_is_the_next_one_in_order_of_probability() -> None:
    model = chain(start={"\n": 0.1, "a": 0.2, "b": 0.3, "c": 0.4})
    found = search(model, VOCABULARY, "", 1, 9)
    assert [sample.text for sample in found] == ["c", "b", "a", "\n"]
    assert [sample.nats for sample in found] == pytest.approx(
        [-math.log(share) + VOCABULARY.known_nats for share in (0.4, 0.3, 0.2, 0.1)], rel=1e-6
    )


# the cheapest ways on


def test_the_cheapest_are_those_of_a_full_sort() -> None:
    generator = np.random.default_rng(0)
    for width in (1, 2, 7, 14, 15, 16):
        totals, costs = generator.random(3), generator.integers(0, 4, (3, 5)) / 4  # sums with many ties
        totals = np.round(totals * 4) / 4
        rows, tokens, sums = beam_search.best_continuations(totals, costs, width)
        every = sorted((totals[row] + costs[row, token], row, token) for row in range(3) for token in range(5))
        assert list(zip(sums, rows, tokens, strict=True)) == every[:width]


def test_of_equals_the_earlier_hypothesis_and_the_lower_token_come_first() -> None:
    totals, costs = np.array([1.0, 0.0]), np.array([[2.0, 1.0, 1.0], [3.0, 2.0, 2.0]])
    rows, tokens, sums = beam_search.best_continuations(totals, costs, 3)  # the border lies within the equals
    assert (rows.tolist(), tokens.tolist(), sums.tolist()) == ([0, 0, 1], [1, 2, 1], [2.0, 2.0, 2.0])


@pytest.mark.parametrize("width", [1, 2, 3, 50])
def test_what_costs_infinity_is_no_way(width: int) -> None:
    totals = np.array([0.0, 1.0])
    costs = np.array([[np.inf, np.inf, 5.0], [np.inf, 1.0, np.inf]])
    rows, tokens, sums = beam_search.best_continuations(totals, costs, width)
    assert list(zip(rows, tokens, sums, strict=True)) == [(1, 1, 2.0), (0, 2, 5.0)][:width]
    assert all(len(part) == 0 for part in beam_search.best_continuations(totals, np.full((2, 3), np.inf), width))


# until


@every_model
@pytest.mark.parametrize("until", ["\n", "ab", "cac"])
def test_with_until_all_texts_are_ordered_by_their_price_a_character(
    cell: str, bidirectional: bool, until: str
) -> None:
    model = made(cell, bidirectional)
    expected = ranked(model, "ba", LENGTH, until)
    found = search(model, VOCABULARY, "ba", LENGTH, 4**LENGTH, until)
    assert [sample.text for sample in found] == [text for text, _ in expected]
    np.testing.assert_allclose([s.nats for s in found], [price for _, price in expected], rtol=1e-12, atol=1e-12)
    assert not any(until in sample.text for sample in found)


def test_the_longer_text_wins_by_its_mean_though_it_costs_more_in_all() -> None:
    # \n at once: 1.2 nats for one character; abc\n: 1.6 nats for four
    model = chain(start={"\n": 0.3, "a": 0.3}, a={"b": 0.9}, b={"c": 0.9}, c={"\n": 0.8})
    short, long = (search(model, VOCABULARY, "", length, 4**4, "\n")[0] for length in (1, 4))
    assert (short.text, long.text) == ("", "abc")
    at_once, in_all = (float(costs(model, "", [text]).sum()) for text in ("\n", "abc\n"))
    assert at_once < in_all
    assert at_once > in_all / 4


def test_the_price_is_that_of_the_shown_text_without_until() -> None:
    model = made()
    for sample in search(model, VOCABULARY, "c", 8, 20, "ab"):
        expected = costs(model, "c", [sample.text]).sum().item() if sample.text else 0.0
        assert sample.nats == pytest.approx(expected, rel=1e-12)
        assert (sample.bits_per_character is None) == (sample.text == "")


def test_an_end_at_once_shows_nothing() -> None:
    (found,) = search(chain(start={"\n": 0.9}), VOCABULARY, "", 5, 1, "\n")
    assert (found.text, found.nats, found.bits_per_character) == ("", 0.0, None)


def test_where_nothing_ends_the_best_of_full_length_is_given() -> None:
    model = made()
    never = "鸟"
    for width in (1, 3, 4**LENGTH):
        assert search(model, VOCABULARY, "a", LENGTH, width, never) == search(model, VOCABULARY, "a", LENGTH, width)
    assert search(model, VOCABULARY, "a", LENGTH, 3, "a" * (LENGTH + 1)) == search(model, VOCABULARY, "a", LENGTH, 3)


def test_until_begun_by_the_prime_does_not_end_the_text_as_in_sampling() -> None:
    model = chain(start={"c": 0.9}, a={"b": 0.9}, b={"c": 0.9}, c={"a": 0.9})
    (found,) = search(model, VOCABULARY, "ca", 20, 1, "ab")
    assert found.text == greedy(model, "ca", 20, "ab").text == "bc"


def test_until_overlapping_itself_is_found() -> None:
    model = chain(start={"b": 0.9}, b={"b": 0.6, "c": 0.39})
    texts = [sample.text for sample in search(model, VOCABULARY, "", 6, 4**6, "bbc")]
    assert texts.index("bb") >= 0  # bbbbc: two more b than until has
    assert not any("bbc" in text for text in texts)


def test_the_search_goes_on_while_an_open_text_is_better_than_the_ended() -> None:
    # \n ends at once and ab\n later: a beam of two holds both ends before the third step
    model = chain(start={"a": 0.7, "\n": 0.28}, a={"b": 0.9, "\n": 0.09}, b={"c": 0.95}, c={"\n": 0.95})
    assert search(model, VOCABULARY, "", 50, 2, "\n")[0].text == "abc"


def test_the_search_ends_where_no_open_text_is_better_than_the_ended(monkeypatch: pytest.MonkeyPatch) -> None:
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


# any request


def test_a_long_prime_read_in_windows_is_read_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    model, prime = made(), "abccab\nb" * 4
    whole = search(model, VOCABULARY, prime, 4, 9)
    monkeypatch.setattr(beam_search, "_WINDOW", 5)
    windows = search(model, VOCABULARY, prime, 4, 9)
    assert [sample.text for sample in windows] == [sample.text for sample in whole]
    assert [sample.nats for sample in windows] == pytest.approx([sample.nats for sample in whole], rel=1e-12)


def test_a_search_is_deterministic_and_leaves_the_global_generator_alone() -> None:
    model, before = made("gru"), torch.get_rng_state()
    first = search(model.train(), VOCABULARY, "ab", 9, 6, "c")
    assert search(model.train(), VOCABULARY, "ab", 9, 6, "c") == first
    assert torch.equal(before, torch.get_rng_state())


def test_fewer_are_the_first_of_many_where_all_are_kept() -> None:
    model = made()
    many, few = (search(model, VOCABULARY, "", 3, width) for width in (100, 64))
    assert many == few
    assert len(many) == 4**3


def test_a_prime_of_unknown_characters_works_and_a_long_one_too() -> None:
    model, odd, long = made(), "鸟🐦z", "abc" * 1_000
    found = search(model, VOCABULARY, odd, 3, 2)
    assert [(sample.prime, len(sample.text)) for sample in found] == [(odd, 3)] * 2
    (best,) = search(model, VOCABULARY, long, 3, 1)
    assert best.nats == pytest.approx(costs(model, long, [best.text]).sum().item(), rel=1e-12)


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
