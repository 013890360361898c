"""Claims about runs that must not be written, of the training text and of the sample itself; on a model that wants to
reproduce its training text."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charrnn.data.vocabulary import Vocabulary
from charrnn.errors import MisuseError
from charrnn.generation import copying
from charrnn.generation.backtracking import MAX_BACKTRACK, BacktrackStack, ChoicePoint
from charrnn.generation.copying import CopyIndex, RepeatTracker
from charrnn.generation.filters import Filters
from charrnn.generation.sampling import Sample, Sampler
from charrnn.models import likelihood
from charrnn.models.interface import Floats, LanguageModel, Tokens
from tests.scripted_model import History


class Copyist(LanguageModel):
    """Model that adds `weight` nats to the character that follows the longest suffix of its history in a text."""

    gates, bidirectional_heads = 1, None

    def __init__(self, text: str, vocabulary: Vocabulary, weight: float = 4.0) -> None:
        self.text, self.vocabulary, self.weight = text, vocabulary, weight

    def initial_state(self, batch_size: int) -> History:
        return History(((),) * batch_size)

    def step(self, tokens: Tokens, state: History) -> tuple[Floats, History]:
        _, after = self.read(tokens, state)
        return np.array([self.predict(self.vocabulary.decode(read)) for read in after.tokens]), after

    def read(self, tokens: Tokens, state: History) -> tuple[Floats, History]:
        """Read a prime; its features are not needed."""
        after = tuple((*old, *new) for old, new in zip(state.tokens, tokens.tolist(), strict=True))
        return np.empty((*tokens.shape, 0)), History(after)

    def logits(self, features: Floats) -> Floats:
        raise AssertionError("sampling needs no features")

    def predict(self, read: str) -> Floats:
        logits = 0.1 * np.sin(len(read) + np.arange(len(self.vocabulary)))
        for length in range(min(len(read), 12), -1, -1):
            end = self.text.find(read[len(read) - length :]) + length
            if length <= end < len(self.text):
                logits[self.vocabulary.encode(self.text[end])] += self.weight
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
    vocabulary = Vocabulary.from_text(text + characters)
    copies = None if no_copy is None else CopyIndex(codes_of(text), no_copy)
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
    streamed = [""] * len(primes)
    for step in sampler:
        streamed = [before + now for before, now in zip(streamed, step, strict=True)]
    assert streamed == [sample.text for sample in sampler.samples]  # nothing streamed is taken back
    return sampler.samples


TEXT = "the cat sat on the mat, and the rat sat on the cat; then the mat was that of the rat.\n" * 2
SIZES = st.sampled_from([2, 3, 4, 5, 8, 20, 40])


@given(st.text("abc", min_size=1, max_size=80), st.text("abcd鸟", max_size=30), st.integers(2, 40))
def test_completions_are_those_of_a_plain_search(text: str, context: str, size: int) -> None:
    width = size - 1
    expected = {text[at + width] for at in range(len(text) - width) if text[at : at + width] == context[-width:]}
    (found,) = CopyIndex(codes_of(text), size).completions([context])
    assert {chr(code) for code in found} == (expected if len(context) >= width else set())


def test_contexts_together_and_from_the_cache_give_the_same_as_each_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    contexts = [TEXT[:at] for at in range(30)]
    for size in (3, 9, 17):
        copies = CopyIndex(codes_of(TEXT), size)
        expected = [copies.completions([context])[0].tolist() for context in contexts]
        assert [found.tolist() for found in copies.completions(contexts)] == expected
        with monkeypatch.context() as patch:
            patch.setattr(copying, "_CACHED_ABOVE", 0)
            patch.setattr(copying, "_BLOCK", 1)
            for _ in range(2):
                assert [found.tolist() for found in copies.completions(contexts)] == expected


def test_a_hash_collision_forbids_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "_FACTOR", 0)  # the hash is the last character
    copies = CopyIndex(codes_of("abcdefgh xbcdefgy"), 8)
    assert [[chr(code) for code in found] for found in copies.completions(["abcdefg", "zbcdefg"])] == [["h"], []]


def test_a_text_of_8_bit_codes_is_matched_with_a_prime_of_wider_ones() -> None:
    copies = CopyIndex(np.frombuffer(b"abcabd", dtype=np.uint8), 3)
    assert [found.tolist() for found in copies.completions(["鸟ab", "a鸟"])] == [[ord("c"), ord("d")], []]


@given(
    st.text("ab", min_size=1, max_size=60),
    st.integers(2, 9),
    st.sampled_from(
        [
            Filters(),
            Filters(greedy=True),
            Filters(temperature=0.5, top_k=1),
            Filters(min_p=0.5),
            Filters(top_p=0.6),
        ]
    ),
    st.integers(0, 9),
)
def test_no_sample_has_a_run_of_the_text_however_little_is_permitted(
    text: str, size: int, filters: Filters, seed: int
) -> None:
    """With two letters and a newline nearly everything may be forbidden: a sample may end early, but without a copy."""
    copies = set(grams(text, size))
    for prime, made in zip(["", "ab"], write(text, ["", "ab"], 40, size, filters, seed=seed), strict=True):
        full = prime + made.text
        ends = range(max(size, len(prime) + 1), len(full) + 1)
        assert not [full[end - size : end] for end in ends if full[end - size : end] in copies]
        assert (made.ended_by == "exhausted") == (len(made.text) < 40)


@given(st.sampled_from([3, 5, 8, 20]), st.integers(0, 99), st.sampled_from([Filters(), Filters(greedy=True)]))
def test_a_sample_repeats_nothing_and_copies_nothing(size: int, seed: int, filters: Filters) -> None:
    for made in write(TEXT, ["the ", ""], 60, 6, filters, no_repeat=size, seed=seed):
        runs = grams(made.prime + made.text, size)
        assert len(set(runs)) == len(runs)
        assert not set(grams(made.text, 6)) & set(grams(TEXT, 6))


def test_without_no_copy_the_copyist_copies() -> None:
    (made,) = write(TEXT, ["the "], 40, None, Filters(greedy=True))
    assert made.text == TEXT[4:44]


def test_a_run_that_begins_within_the_prime_counts_but_those_of_the_prime_itself_do_not() -> None:
    prime = TEXT[:30]
    (made,) = write(TEXT, [prime], 30, 10, Filters(greedy=True))
    assert made.prime == prime
    assert made.text[0] != TEXT[30]
    assert not [run for run in grams(prime + made.text, 10)[21:] if run in TEXT]


def test_a_dead_end_is_left_at_the_last_position_with_alternatives() -> None:
    """In a run of six the model is sure of every character but the third, which may as well be another one."""
    stack, unlikely = BacktrackStack(depth=9), 0.001
    state = History(((),))
    for step, odds in enumerate([0.99, 0.99, 0.5, 0.99, 0.99, 0.99]):
        weights = np.array([odds, 1 - odds])
        stack.push(ChoicePoint(state, 0, step))
        forbidden = [0] if step == 5 else []
        chosen = stack.choose(weights, weights, np.array(forbidden, dtype=int), None)
        assert chosen == (None if step == 5 else 0)
    assert stack.backtrack() == 3
    point = stack.points[-1]
    assert (point.token, point.rejected) == (2, [0])
    even = np.array([0.5, 0.5])
    assert stack.choose(even, even, np.array([], dtype=int), unlikely) == 1
    # where no position has enough probability left, that with most is taken; the last one is then no dead end
    stack.push(ChoicePoint(state, 0, 3))
    weights = np.array([0.95, 0.05])
    assert stack.choose(weights, weights, np.array([0]), unlikely) == 1
    # then that with the little that is left; where none has any, there is nothing to return to
    stack.push(ChoicePoint(state, 0, 4))
    assert stack.choose(weights, weights, np.array([0, 1]), unlikely) is None
    assert stack.backtrack() == 4
    assert stack.choose(weights, weights, np.array([], dtype=int), unlikely) == 1
    stack.push(ChoicePoint(state, 0, 1))
    assert stack.choose(weights, weights, np.array([0, 1]), unlikely) is None
    assert stack.backtrack() is None


@pytest.mark.parametrize("filters", [Filters(), Filters(greedy=True)])
def test_a_sample_ends_early_where_nothing_is_permitted(filters: Filters) -> None:
    text = "aababbaaabbbabaa"  # has every run of two letters, but none with a newline
    (made,) = write(text, ["ab"], 40, 2, filters, no_repeat=2)
    assert made.ended_by == "exhausted"
    assert len(made.text) < 40
    assert not set(grams(made.text, 2)) & set(grams(text, 2))


def test_giving_up_takes_bounded_time() -> None:
    # searching the tree of all texts of 64 characters over two letters would never end
    text = "a\nb\n"
    vocabulary = Vocabulary.from_text(text)

    class Wall(CopyIndex):
        """Permits 60 characters, and then forbids everything."""

        def completions(self, contexts: Sequence[str]) -> list[copying.Codes]:
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
    assert sampler.samples[0].ended_by == "exhausted"
    assert len(sampler.samples[0].text) == 60


def test_the_first_samples_of_many_are_those_of_few_and_all_differ() -> None:
    few, many = write(TEXT, ["the "] * 2, 70, 7), write(TEXT, ["the "] * 6, 70, 7)
    assert [made.text for made in few] == [made.text for made in many[:2]]
    assert many == write(TEXT, ["the "] * 6, 70, 7)
    assert len({made.text for made in many}) == 6
    # and beside primes of other lengths
    assert write(TEXT, ["the ", "of the rat", "q"], 70, 7)[0] == few[0]


def test_the_score_is_that_of_the_characters_that_were_not_taken_back() -> None:
    vocabulary = Vocabulary.from_text(TEXT)
    for made in write(TEXT, ["the ", "rat"], 80, 6):
        model, nats = Copyist(TEXT, vocabulary), 0.0
        for at, character in enumerate(made.text):
            logits = model.predict("\n" + made.prime + made.text[:at])
            nats += float(likelihood.target_nats(vocabulary, logits[None], vocabulary.encode(character))[0])
        assert made.nats == pytest.approx(nats, rel=1e-9)


def test_until_still_stops_a_sample() -> None:
    for made in write(TEXT, [""] * 5, 200, 9, until="at"):
        assert "at" not in made.text
        assert made.ended_by != "exhausted"


@pytest.mark.parametrize(("until", "ended"), [("ac", True), ("abc", False), ("xac", True), ("xabc", False)])
def test_what_was_taken_back_is_no_part_of_a_stop_text(
    until: str, ended: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    vocabulary = Vocabulary.from_text(TEXT)
    (partial,) = Sampler(
        Copyist(TEXT, vocabulary),
        vocabulary,
        ["x"],
        9,
        Filters(),
        seed=1,
        indices=[0],
        until=until,
        no_copy=CopyIndex(codes_of(TEXT), 5),
    ).partial_samples
    assert partial.stack is not None
    monkeypatch.setattr(partial.stack, "backtrack", lambda: 1)
    partial.stack.push(ChoicePoint(History(((),)), 0, 0))
    for character in "ab":
        partial.write(character, 9)
    partial.backtrack()
    partial.write("c", 9)
    assert partial.done == ended


def test_only_what_may_be_taken_back_is_held_back() -> None:
    vocabulary = Vocabulary.from_text(TEXT)
    for size, depth in ((7, 7), (500, MAX_BACKTRACK)):
        sampler = Sampler(
            Copyist(TEXT, vocabulary),
            vocabulary,
            [""],
            300,
            Filters(),
            seed=1,
            indices=[0],
            no_copy=CopyIndex(codes_of(TEXT), size),
        )
        partial, streamed = sampler.partial_samples[0], 0
        for (now,) in sampler:
            streamed += len(now)
            assert partial.done or partial.length - streamed <= depth
        assert streamed == 300


STEPS = st.lists(st.one_of(st.text("ab鸟", min_size=1, max_size=40), st.integers(1, 60)), max_size=20)


@given(STEPS, st.integers(2, 6), st.text("ab鸟", max_size=30), st.booleans())
def test_repeats_follow_what_is_added_and_removed(steps: list[str | int], size: int, prime: str, collide: bool) -> None:
    """Whether or not contexts have hashes of their own."""
    with pytest.MonkeyPatch.context() as patch:
        if collide:
            patch.setattr(copying, "_FACTOR", 0)  # the hash is the last character
        follow(RepeatTracker(size, prime), prime, steps, size, least=0)
        follow(RepeatTracker(size, prime).branch(), prime, steps, size, least=len(prime))


def follow(repeats: RepeatTracker, text: str, steps: list[str | int], size: int, *, least: int) -> None:
    """Add texts and remove so many characters, but none of the first `least`, and compare with a plain search."""
    for step in steps:
        if isinstance(step, str):
            repeats.add(step)
            text += step
        else:
            count = min(step, len(text) - least)
            repeats.remove(count)
            text = text[: len(text) - count]
        context = text[max(0, len(text) - size + 1) :]
        expected = {run[-1] for run in grams(text, size) if run[:-1] == context}
        assert set(repeats.completions()) == expected


def test_repeats_take_no_more_memory_for_long_runs_than_for_short_ones() -> None:
    """Each context was once a key: 97 bytes a character for runs of 20, 1,025 for runs of 1,000."""
    text = "".join(np.random.default_rng(1).choice(list("abcdefgh"), 20_000))
    taken = []
    for size in (20, 1000):
        tracemalloc.start()
        repeats = RepeatTracker(size, text)
        taken.append(tracemalloc.get_traced_memory()[0] / len(text))
        tracemalloc.stop()
        assert repeats.completions() == ""
    assert max(taken) < 60


def test_a_run_that_comes_over_and_over_is_kept_once() -> None:
    """Each step once returned all its occurrences: a character of a long monotonous prime took longer and longer."""
    assert RepeatTracker(5, "a" * 5000).completions() == "a"


def test_sizes_below_two_are_refused() -> None:
    with pytest.raises(MisuseError, match="no-copy is 1; it must be at least 2"):
        CopyIndex(codes_of("abc"), 1)
    with pytest.raises(MisuseError, match="no-repeat is 1; it must be at least 2"):
        RepeatTracker(1)
