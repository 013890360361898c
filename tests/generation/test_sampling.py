"""Claims about sampling, on models with four symbols whose probabilities are known."""

from __future__ import annotations

import gc
import math
import random
import tracemalloc
from collections import Counter

import numpy as np
import pytest
import torch

from charrnn.config.schema import ModelConfig
from charrnn.data.vocabulary import Vocabulary
from charrnn.errors import CharRNNError, MisuseError
from charrnn.generation import sampling
from charrnn.generation.copying import CopyIndex
from charrnn.generation.filters import Filters
from charrnn.generation.primes import ReadPrimes
from charrnn.generation.sampling import Sample, Sampler
from charrnn.models import ngram
from charrnn.models.char_rnn import CharRNN
from charrnn.models.interface import Floats, LanguageModel, Tokens
from charrnn.models.torch_model import TorchModel, TorchState
from tests.conftest import close

VOCABULARY = Vocabulary.from_text("abc\n" * 50)  # tokens by code point: \n a b c
PROBABILITIES = {"\n": 0.1, "a": 0.2, "b": 0.3, "c": 0.4}


def memoryless() -> CharRNN:
    """Build a model that predicts PROBABILITIES in every context."""
    made = CharRNN(ModelConfig(hidden_size=5, num_layers=1, embedding_size=3, dropout=0.0, tie_weights=False), 4)
    with torch.no_grad():
        for weights in made.parameters():
            weights.zero_()
        made.head_bias.copy_(torch.tensor([PROBABILITIES[character] for character in VOCABULARY.characters]).log())
    return made


def contextual(cell: str = "lstm") -> CharRNN:
    made = CharRNN(
        ModelConfig.model_validate(
            {"cell": cell, "hidden_size": 6, "num_layers": 2, "embedding_size": 3, "dropout": 0.5, "tie_weights": False}
        ),
        4,
    )
    made.initialise(torch.Generator().manual_seed(1))
    with torch.no_grad():
        for weights in made.parameters():
            weights.mul_(2.0)
    return made


def write(
    model: CharRNN,
    primes: list[str],
    length: int,
    *,
    filters: Filters | None = None,
    seed: int = 7,
    until: str | list[str] | None = None,
    keep_until: bool = False,
    indices: list[int] | None = None,
) -> list[Sample]:
    sampler = Sampler(
        TorchModel(model),
        VOCABULARY,
        primes,
        length,
        filters or Filters(),
        seed=seed,
        indices=indices or list(range(len(primes))),
        until=until,
        keep_until=keep_until,
    )
    streamed = [""] * len(primes)
    for step in sampler:
        streamed = [before + now for before, now in zip(streamed, step, strict=True)]
    assert streamed == [sample.text for sample in sampler.samples]
    return sampler.samples


def test_characters_are_drawn_with_their_probabilities() -> None:
    text = "".join(sample.text for sample in write(memoryless(), [""] * 50, 400))
    for character, probability in PROBABILITIES.items():
        error = math.sqrt(probability * (1 - probability) / len(text))
        assert Counter(text)[character] / len(text) == pytest.approx(probability, abs=4 * error)


def test_temperature_sharpens_as_the_formula_says() -> None:
    text = "".join(sample.text for sample in write(memoryless(), [""] * 50, 400, filters=Filters(temperature=0.5)))
    weight = sum(probability**2 for probability in PROBABILITIES.values())
    assert Counter(text)["c"] / len(text) == pytest.approx(0.4**2 / weight, abs=0.015)


def test_top_k_and_greedy_draw_from_their_set_alone() -> None:
    assert set(write(memoryless(), [""], 500, filters=Filters(top_k=2))[0].text) == {"b", "c"}
    assert set(write(memoryless(), [""], 500, filters=Filters(greedy=True))[0].text) == {"c"}


def test_length_counts_the_continuation_only() -> None:
    (sample,) = write(memoryless(), ["abcabc"], 11)
    assert (sample.prime, len(sample.text)) == ("abcabc", 11)


def test_the_score_is_that_of_the_unfiltered_model() -> None:
    (sample,) = write(memoryless(), ["a"], 9, filters=Filters(greedy=True))
    each = -math.log(0.4) + VOCABULARY.known_nats
    assert sample.nats == pytest.approx(9 * each, rel=1e-6)
    assert sample.bits_per_character == pytest.approx(each / math.log(2), rel=1e-6)


def test_the_first_samples_of_many_are_those_of_few() -> None:
    model = contextual()
    few, many = write(model, ["ab"] * 3, 40), write(model, ["ab"] * 8, 40)
    assert [sample.text for sample in few] == [sample.text for sample in many[:3]]
    assert len({sample.text for sample in many}) == 8


def test_a_seed_determines_the_text_and_zero_is_a_seed() -> None:
    model = contextual()
    zero = write(model, ["ab"], 30, seed=0)[0].text
    assert zero == write(model, ["ab"], 30, seed=0)[0].text
    assert zero != write(model, ["ab"], 30, seed=1)[0].text


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_other_primes_in_the_batch_change_nothing(cell: str) -> None:
    model, primes = contextual(cell), ["", "abcab", "c", "bb"]
    together = write(model, primes, 25, until="\n\n")
    for index, prime in enumerate(primes):
        (alone,) = write(model, [prime], 25, until="\n\n", indices=[index])
        assert alone.text == together[index].text
        assert alone.nats == pytest.approx(together[index].nats, rel=1e-4)


def test_until_stops_before_the_text_appears() -> None:
    text = write(memoryless(), [""], 5_000, until="bca")[0].text
    assert "bca" not in text
    full = write(memoryless(), [""], 5_000)[0].text
    assert full.startswith(text + "bca")


def test_what_until_holds_back_is_released_at_the_end() -> None:
    # the length is reached within a prefix of `until`: those characters belong to the text
    text = write(memoryless(), [""], 40, filters=Filters(greedy=True), until="c" * 50)[0].text
    assert text == "c" * 40


def test_until_overlapping_itself_is_found() -> None:
    full = write(memoryless(), [""], 5_000)[0].text
    assert write(memoryless(), [""], 5_000, until="bbc")[0].text == full[: full.index("bbc")]


@pytest.mark.parametrize("seed", range(40))
def test_the_earliest_match_ends_a_sample_also_one_that_begins_in_the_prime(seed: int) -> None:
    dice = random.Random(seed)
    prime = "".join(dice.choices("abc", k=dice.randrange(6)))
    full = prime + write(memoryless(), [prime], 60)[0].text
    starts = [dice.randrange(max(0, len(prime) - 3), 60) for _ in range(dice.randint(1, 4))]
    stops = [full[start : start + dice.randint(1, 6)] for start in starts]
    end = next(end for end in range(len(prime) + 1, len(full) + 1) if full[:end].endswith(tuple(stops)))
    longest = max(len(stop) for stop in stops if full[:end].endswith(stop))
    (without,), (kept,) = (
        write(memoryless(), [prime], 60, until=stops, keep_until=keep_until) for keep_until in (False, True)
    )
    assert (without.text, kept.text) == (full[len(prime) : max(len(prime), end - longest)], full[len(prime) : end])
    for sample in (without, kept):
        nats = sum(VOCABULARY.known_nats - math.log(PROBABILITIES[character]) for character in sample.text)
        assert sample.ended_by == "until"
        assert sample.nats == pytest.approx(nats, rel=1e-6)


def test_until_is_not_looked_for_in_the_prime_itself() -> None:
    full = write(memoryless(), ["ab"], 30)[0].text
    (made,) = write(memoryless(), ["ab"], 30, until="ab")
    assert made.text == full[: full.index("ab")] != ""


def test_a_sample_says_what_ended_it() -> None:
    assert write(memoryless(), [""], 5)[0].ended_by == "length"
    assert write(memoryless(), [""], 5, filters=Filters(greedy=True), until="ccccc")[0].ended_by == "until"


@pytest.mark.parametrize("constrained", [False, True])
def test_a_streamed_sample_takes_no_more_memory_the_longer_it_is(
    constrained: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Text and nats of a sample once stayed until its end, and the text was copied for each character."""
    monkeypatch.setattr(sampling, "_MAX_UNSCORED", 64)
    learned = np.frombuffer(b"abcabbcaacb" * 9, dtype=np.uint8)
    sampler = Sampler(
        next(ngram.grow(VOCABULARY.encode("aabbcc" * 9), VOCABULARY.boundary_tokens[0], len(VOCABULARY))),
        VOCABULARY,
        [""],
        3_080,
        Filters(),
        seed=7,
        indices=[0],
        until=["b" * 20, "cab" * 9] if constrained else None,
        no_copy=CopyIndex(learned, 6) if constrained else None,
        keep_text=False,
    )
    taken = []
    tracemalloc.start()
    try:
        for step, _ in enumerate(sampler):
            if step % 1024 == 1023:  # as far through a block of random numbers each time
                gc.collect()
                taken.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert taken[-1] - taken[0] < 30_000  # the nats alone would be 80,000
    (made,) = sampler.samples
    assert (made.text, made.characters) == ("", 3_080)
    assert made.bits_per_character is not None


class Counted(TorchModel):
    """Counts the tokens that are read, and the rows whose logits are computed."""

    read_tokens = rows = 0

    def step(self, tokens: Tokens, state: TorchState) -> tuple[Floats, TorchState]:
        self.read_tokens, self.rows = self.read_tokens + tokens.size, self.rows + len(tokens)
        return super().step(tokens, state)

    def read(self, tokens: Tokens, state: TorchState) -> tuple[Floats, TorchState]:
        self.read_tokens += tokens.size
        return super().read(tokens, state)


@pytest.mark.parametrize("primes", [["", "abcab", "c", "abcab", "bbcab", "ab" * 40], ["abc"] * 6, ["", "a\n鸟"]])
def test_each_prime_is_read_once_and_side_by_side(primes: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("charrnn.generation.primes._WINDOW", 16)
    model, different = Counted(contextual()), set(primes)
    read = ReadPrimes(model, VOCABULARY, primes)
    assert model.read_tokens == sum(len(prime) + 1 for prime in different)
    assert model.rows == len(different)  # logits after the last character alone
    before = model.read_tokens
    for indices in ([0, 1], [2, 3, 4]):
        sampler = Sampler(
            model, VOCABULARY, primes[:1] * len(indices), 5, Filters(), seed=7, indices=indices, read=read
        )
        for _ in sampler:
            pass
        alone = [write(contextual(), primes[:1], 5, indices=[index])[0].text for index in indices]
        assert [sample.text for sample in sampler.samples] == alone
    assert model.read_tokens == before + 5 * 4  # the first character of a sample needs no step


def test_the_state_after_each_prime_is_that_of_the_prime_alone() -> None:
    model: LanguageModel = TorchModel(contextual().double())
    primes = ["abcab", "", "c", "abca", "cc", "bcabcabca" * 9]
    read = ReadPrimes(model, VOCABULARY, primes)
    for prime in primes:
        tokens = VOCABULARY.encode("\n" + prime).astype(np.int64)[None]
        logits, state = model.step(tokens, model.initial_state(1))
        row = np.array([read.rows[prime]])
        close(read.logits[row], logits)
        close(model.step(tokens[:, :1], read.state.select(row))[0], model.step(tokens[:, :1], state)[0])


def test_primes_may_be_long_and_have_unknown_characters() -> None:
    (odd, long) = write(contextual(), ["鸟🐦z", "abc" * 2_000], 10)
    assert (len(odd.text), len(long.text)) == (10, 10)
    assert odd.prime == "鸟🐦z"


def test_an_empty_prime_follows_a_newline() -> None:
    model = contextual()
    state = model.initial_state(1)
    with torch.no_grad():
        logits, _ = model.eval()(torch.tensor([[VOCABULARY.boundary_tokens[0]]]), state)
    (sample,) = write(model, [""], 1, filters=Filters(greedy=True))
    assert sample.text == VOCABULARY.characters[int(logits[0, -1].argmax())]


def test_the_escape_is_never_drawn() -> None:
    vocabulary = Vocabulary.from_text("abcdefg" * 3 + "hijk\n")  # unseen characters are likely here
    made = CharRNN(
        ModelConfig(hidden_size=5, num_layers=1, embedding_size=3, dropout=0.0, tie_weights=False), len(vocabulary)
    )
    made.initialise(torch.Generator().manual_seed(0))
    sampler = Sampler(TorchModel(made), vocabulary, [""], 2_000, Filters(), seed=0, indices=[0])
    assert set("".join(text for (text,) in sampler)) <= set(vocabulary.characters)


def test_bad_requests_are_refused_in_a_sentence() -> None:
    with pytest.raises(MisuseError, match="length is 0; it must be at least 1"):
        write(memoryless(), [""], 0)
    with pytest.raises(MisuseError, match="until is empty"):
        write(memoryless(), [""], 5, until="")
    with pytest.raises(CharRNNError, match=r"prime: character 1 is a lone surrogate \(U\+D800\)"):
        write(memoryless(), ["a\ud800"], 5)


def test_sampling_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    write(contextual(), ["ab"], 20)
    assert torch.equal(before, torch.get_rng_state())
