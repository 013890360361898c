"""Claims about what may not be written: runs of the training text, and of the sample itself; on a reader that knows
nothing but the text, and wants to write it down."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charrnn.data.vocabulary import Vocabulary
from charrnn.errors import MisuseError
from charrnn.generation import copying
from charrnn.generation.backtracking import LAG, Place, Trail
from charrnn.generation.copying import Copies, Repeats
from charrnn.generation.filters import Filters
from charrnn.generation.sampling import Sample, Sampler
from charrnn.models import likelihood
from charrnn.models.interface import Floats, LanguageModel, Tokens


@dataclass(frozen=True)
class Read:
    """The tokens that each lane has read."""

    tokens: tuple[tuple[int, ...], ...]

    def select(self, index: Tokens) -> Read:
        return Read(tuple(self.tokens[place] for place in index))

    def joined(self, others: Sequence[Any]) -> Read:
        return Read(self.tokens + tuple(tokens for other in others for tokens in other.tokens))


class Copyist(LanguageModel):
    """Foretells what follows in a text after the longest end of what was read that the text has; by `weight` nats."""

    gates, sides = 1, None

    def __init__(self, text: str, vocabulary: Vocabulary, weight: float = 4.0) -> None:
        self.text, self.vocabulary, self.weight = text, vocabulary, weight

    def initial_state(self, lanes: int) -> Read:
        return Read(((),) * lanes)

    def step(self, tokens: Tokens, state: Read) -> tuple[Floats, Read]:
        after = tuple((*old, *new) for old, new in zip(state.tokens, tokens.tolist(), strict=True))
        return np.array([self.foretell(self.vocabulary.decode(read)) for read in after]), Read(after)

    def read(self, tokens: Tokens, state: Read) -> tuple[Floats, Read]:
        raise AssertionError("writing needs steps alone")

    def logits(self, features: Floats) -> Floats:
        raise AssertionError("writing needs steps alone")

    def foretell(self, read: str) -> Floats:
        logits = 0.1 * np.sin(len(read) + np.arange(len(self.vocabulary)))
        for length in range(min(len(read), 12), -1, -1):
            place = self.text.find(read[len(read) - length :]) + length
            if length <= place < len(self.text):
                logits[self.vocabulary.encode(self.text[place])] += self.weight
                break
        return logits


def codes_of(text: str) -> copying.Codes:
    return np.frombuffer(text.encode("utf-32-le"), dtype="<u4")


def grams(text: str, size: int) -> list[str]:
    return [text[at : at + size] for at in range(len(text) - size + 1)]


def write(
    text: str,
    primes: list[str],
    length: int,
    no_copy: int | None,
    filters: Filters | None = None,
    *,
    no_repeat: int | None = None,
    seed: int = 1,
    until: str | None = None,
    characters: str = "",
) -> list[Sample]:
    vocabulary = Vocabulary.of(text + characters)
    copies = None if no_copy is None else Copies(codes_of(text), no_copy)
    sampler = Sampler(
        Copyist(text, vocabulary),
        vocabulary,
        primes,
        length,
        filters or Filters(),
        seed=seed,
        indices=range(len(primes)),
        until=until,
        no_copy=copies,
        no_repeat=no_repeat,
    )
    shown = [""] * len(primes)
    for step in sampler:
        shown = [before + now for before, now in zip(shown, step, strict=True)]
    assert shown == [sample.text for sample in sampler.samples]  # what was shown is never taken back
    return sampler.samples


TEXT = "the cat sat on the mat, and the rat sat on the cat; then the mat was that of the rat.\n" * 2
SIZES = st.sampled_from([2, 3, 4, 5, 8, 20, 40])


@given(st.text("abc", min_size=1, max_size=80), st.text("abcd鸟", max_size=30), st.integers(2, 40))
def test_what_completes_a_run_is_what_a_search_finds(text: str, context: str, size: int) -> None:
    width = size - 1
    expected = {text[at + width] for at in range(len(text) - width) if text[at : at + width] == context[-width:]}
    (found,) = Copies(codes_of(text), size).following([context])
    assert {chr(code) for code in found} == (expected if len(context) >= width else set())


def test_many_contexts_are_answered_as_each_alone_and_from_what_was_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    contexts = [TEXT[:at] for at in range(30)]
    for size in (3, 9, 17):
        copies = Copies(codes_of(TEXT), size)
        expected = [copies.following([context])[0].tolist() for context in contexts]
        assert [found.tolist() for found in copies.following(contexts)] == expected
        with monkeypatch.context() as patch:
            patch.setattr(copying, "_MANY", 0)
            patch.setattr(copying, "_BLOCK", 1)
            for _ in range(2):
                assert [found.tolist() for found in copies.following(contexts)] == expected


def test_equal_hashes_forbid_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "_FACTOR", 0)  # a hash that knows the last character only
    copies = Copies(codes_of("abcdefgh xbcdefgy"), 8)
    assert [[chr(code) for code in found] for found in copies.following(["abcdefg", "zbcdefg"])] == [["h"], []]


def test_a_run_of_few_bytes_is_found_by_a_prime_of_many() -> None:
    copies = Copies(np.frombuffer(b"abcabd", dtype=np.uint8), 3)
    assert [found.tolist() for found in copies.following(["鸟ab", "a鸟"])] == [[ord("c"), ord("d")], []]


@given(
    st.text("ab", min_size=1, max_size=60),
    st.integers(2, 9),
    st.sampled_from([Filters(), Filters(greedy=True), Filters(0.5, top_k=1), Filters(min_p=0.5), Filters(top_p=0.6)]),
    st.integers(0, 9),
)
def test_no_sample_has_a_run_of_the_text_whatever_is_left_to_write(
    text: str, size: int, filters: Filters, seed: int
) -> None:
    """Over two letters and a newline nearly everything may be forbidden: a sample may end early, but holds nothing that
    it must not."""
    known = set(grams(text, size))
    for prime, made in zip(["", "ab"], write(text, ["", "ab"], 40, size, filters, seed=seed), strict=True):
        whole = prime + made.text
        ends = range(max(size, len(prime) + 1), len(whole) + 1)
        assert not [whole[end - size : end] for end in ends if whole[end - size : end] in known]
        assert made.ended_early == (len(made.text) < 40)


@given(st.sampled_from([3, 5, 8, 20]), st.integers(0, 99), st.sampled_from([Filters(), Filters(greedy=True)]))
def test_a_sample_repeats_nothing_and_copies_nothing(size: int, seed: int, filters: Filters) -> None:
    for made in write(TEXT, ["the ", ""], 60, 6, filters, no_repeat=size, seed=seed):
        runs = grams(made.prime + made.text, size)
        assert len(set(runs)) == len(runs)
        assert not set(grams(made.text, 6)) & set(grams(TEXT, 6))


def test_without_a_choice_the_copyist_copies() -> None:
    (made,) = write(TEXT, ["the "], 40, None, Filters(greedy=True))
    assert made.text == TEXT[4:44]


def test_a_run_may_begin_within_the_prime_and_the_primes_own_runs_stay() -> None:
    prime = TEXT[:30]
    (made,) = write(TEXT, [prime], 30, 10, Filters(greedy=True))
    assert made.prime == prime
    assert made.text[0] != TEXT[30]
    whole = prime + made.text
    assert not [run for run in grams(whole, 10)[21:] if run in TEXT]


def test_a_dead_end_is_left_where_there_was_a_choice() -> None:
    """Of a run of six, the model is sure of all but the third character, which may as well be another one."""
    trail, unlikely = Trail(lag=9), 0.001
    state = Read(((),))
    for step, odds in enumerate([0.99, 0.99, 0.5, 0.99, 0.99, 0.99]):
        weights = np.array([odds, 1 - odds])
        trail.arrive(Place(state, 0, step))
        forbidden = [0] if step == 5 else []
        chosen = trail.choose(weights, weights, np.array(forbidden, dtype=int), None)
        assert chosen == (None if step == 5 else 0)
    assert trail.go_back() == 3
    here = trail.places[-1]
    assert (here.token, here.barred) == (2, [0])
    even = np.array([0.5, 0.5])
    assert trail.choose(even, even, np.array([], dtype=int), unlikely) == 1
    # where no place leaves a choice, the one that leaves most is taken, and if that is the last, it is no dead end
    trail.arrive(Place(state, 0, 3))
    weights = np.array([0.95, 0.05])
    assert trail.choose(weights, weights, np.array([0]), unlikely) == 1
    # beyond that the little that is left, and where nothing is, there is no way back
    trail.arrive(Place(state, 0, 4))
    assert trail.choose(weights, weights, np.array([0, 1]), unlikely) is None
    assert trail.go_back() == 4
    assert trail.choose(weights, weights, np.array([], dtype=int), unlikely) == 1
    trail.arrive(Place(state, 0, 1))
    assert trail.choose(weights, weights, np.array([0, 1]), unlikely) is None
    assert trail.go_back() is None


@pytest.mark.parametrize("filters", [Filters(), Filters(greedy=True)])
def test_where_nothing_can_go_on_the_sample_ends_early(filters: Filters) -> None:
    text = "aababbaaabbbabaa"  # holds every run of two letters, but none with a newline
    (made,) = write(text, ["ab"], 40, 2, filters, no_repeat=2)
    assert made.ended_early
    assert len(made.text) < 40
    assert not set(grams(made.text, 2)) & set(grams(text, 2))


def test_giving_up_takes_bounded_time() -> None:
    # a tree of all texts of 64 characters over two letters could be searched for ever
    text = "a\nb\n"
    vocabulary = Vocabulary.of(text)

    class Wall(Copies):
        """Lets runs grow to 60 characters, and then forbids everything."""

        def following(self, contexts: Sequence[str]) -> list[copying.Codes]:
            return [codes_of("ab\n" if len(context) >= 60 else "") for context in contexts]

    sampler = Sampler(
        Copyist(text, vocabulary),
        vocabulary,
        [""],
        500,
        Filters(),
        seed=1,
        indices=[0],
        no_copy=Wall(codes_of(text), 100),
    )
    assert sum(1 for _ in sampler) < 20_000
    assert sampler.samples[0].ended_early
    assert len(sampler.samples[0].text) == 60


def test_the_first_samples_of_many_are_those_of_few_and_each_is_its_own() -> None:
    few, many = write(TEXT, ["the "] * 2, 70, 7), write(TEXT, ["the "] * 6, 70, 7)
    assert [made.text for made in few] == [made.text for made in many[:2]]
    assert many == write(TEXT, ["the "] * 6, 70, 7)
    assert len({made.text for made in many}) == 6
    # and beside other primes, which are read at another pace
    assert write(TEXT, ["the ", "of the rat", "q"], 70, 7)[0] == few[0]


def test_the_price_is_that_of_the_characters_that_stayed() -> None:
    vocabulary = Vocabulary.of(TEXT)
    for made in write(TEXT, ["the ", "rat"], 80, 6):
        reader, nats = Copyist(TEXT, vocabulary), 0.0
        for at, character in enumerate(made.text):
            logits = reader.foretell("\n" + made.prime + made.text[:at])
            nats += float(likelihood.target_nats(vocabulary, logits[None], vocabulary.encode(character))[0])
        assert made.nats == pytest.approx(nats, rel=1e-9)


def test_a_sample_still_stops_before_a_text() -> None:
    for made in write(TEXT, [""] * 5, 200, 9, until="at"):
        assert "at" not in made.text
        assert not made.ended_early


def test_what_may_be_taken_back_is_held_back_and_no_more() -> None:
    vocabulary = Vocabulary.of(TEXT)
    for size, lag in ((7, 7), (500, LAG)):
        sampler = Sampler(
            Copyist(TEXT, vocabulary),
            vocabulary,
            [""],
            300,
            Filters(),
            seed=1,
            indices=[0],
            no_copy=Copies(codes_of(TEXT), size),
        )
        lane, shown = sampler.lanes[0], 0
        for (now,) in sampler:
            shown += len(now)
            assert lane.done or lane.length - shown <= lag
        assert shown == 300


@given(st.lists(st.one_of(st.text("ab", min_size=1, max_size=5), st.integers(1, 6)), max_size=20), st.integers(2, 5))
def test_repeats_know_what_stands_now(steps: list[str | int], size: int) -> None:
    repeats, text = Repeats(size), ""
    for step in steps:
        if isinstance(step, str):
            repeats.add(step)
            text += step
        else:
            count = min(step, len(text))
            repeats.remove(count)
            text = text[: len(text) - count]
        context = text[max(0, len(text) - size + 1) :]
        expected = {run[-1] for run in grams(text, size) if run[:-1] == context}
        assert set(repeats.following()) == expected


def test_sizes_below_two_are_refused() -> None:
    with pytest.raises(MisuseError, match="no-copy is 1; it must be at least 2"):
        Copies(codes_of("abc"), 1)
    with pytest.raises(MisuseError, match="no-repeat is 1; it must be at least 2"):
        Repeats(1)
