"""The n-gram model: its probabilities by hand and by another implementation, and the commands that use it."""

from __future__ import annotations

import json
import math
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import safetensors.numpy
import yaml
from hypothesis import given
from hypothesis import strategies as st

import charrnn as package
from charrnn.checkpoints import inference, model_file
from charrnn.data.vocabulary import Vocabulary
from charrnn.errors import CharRNNError
from charrnn.evaluation.short_texts import score_batch
from charrnn.models import likelihood, ngram, ngram_counts, ngram_pruning
from charrnn.models.ngram import Ngram
from tests.checkpoints.test_model_file import lie, parts, rewrite
from tests.conftest import Charrnn

NEWLINE = 0


def models(tokens: Sequence[int], size: int) -> dict[int, Ngram]:
    """Count tokens after a newline, which is token 0; return the model of each order."""
    return {model.order: model for model in ngram.grow(np.array(tokens, dtype=np.uint8), NEWLINE, size)}


def after(model: Ngram, context: Sequence[int]) -> npt.NDArray[np.float64]:
    """Return the distribution (V) after a context that no newline precedes."""
    state = model.initial_state(1)
    if not context:
        return np.asarray(model.distribution(state.numbers)[0])
    logits, _ = model.step(np.array([list(context)]), state)
    return np.asarray(np.exp(logits[0].astype(np.float64)))


def test_one_text_steps_through_the_same_numbers_as_many() -> None:
    """It has code of its own, several times faster."""
    model = models([1, 2, 1, 2, 1, 3, 3, 1, 2], 4)[4]
    one, two = model.initial_state(1), model.initial_state(2)
    for token in [0, 1, 2, 1, 3, 3, 4, 2, 2, 1, 2, 1]:  # 4 is the escape
        alone, one = model.step(np.array([[token]]), one)
        beside, two = model.step(np.array([[token], [token]]), two)
        np.testing.assert_allclose(alone[0], beside[1], rtol=1e-13)
        assert (one.numbers[0] == two.numbers[1]).all()


# By hand


def test_what_begins_a_document_is_counted_as_often_as_it_occurs() -> None:
    """By the different characters before it, which all documents share, a third of the samples began otherwise."""
    text = "".join(f"{end}\n\nPOEM {end}" for end in "abcdefgh" * 40)
    vocabulary = replace(Vocabulary.from_text(text), boundary="\n\n")
    tokens, boundary = vocabulary.encode(text), vocabulary.boundary_tokens
    beginnings = []
    for documents in (None, boundary):
        model = next(one for one in ngram.grow(tokens, int(boundary[-1]), len(vocabulary), documents) if one.order == 6)
        logits, _ = model.step(boundary[None], model.initial_state(1))
        beginnings.append(float(np.exp(logits[0, vocabulary.encode("P")[0]])))
    assert beginnings[0] < 0.9
    assert beginnings[1] > 0.99


def test_a_tiny_text_by_hand() -> None:
    # "\n" and then a b a b a c, as tokens 0 | 1 2 1 2 1 3; no order has enough rare grams: D is 0.5, 1 and 1.5,
    # but where n1 and n2 give a discount between 0 and c
    made = models([1, 2, 1, 2, 1, 3], 4)
    # order 1, its own counts: \n 0, a 3, b 2, c 1; n1 = n2 = n3 = 1, so Y = 1/3, D1 = 1 - 2/3, D2 = 2 - 3/3, and
    # D3 = 3 - 0 is not below 3: 1.5. Discounted: 1/3 + 1 + 1.5 = 17/6 of 6, shared among four
    discounted = 17 / 36
    unigram = [discounted / 4, 1.5 / 6 + discounted / 4, 1 / 6 + discounted / 4, (2 / 3) / 6 + discounted / 4]
    np.testing.assert_allclose(after(made[1], []), unigram)
    # order 2: after a (1) come b twice and c once; after b (2) a twice; after \n a once; bigrams that count 1: \na, ac,
    # and 2: ab, ba. n1 = 2, n2 = 2, Y = 1/3, D1 = 1 - 2/3 = 1/3, and D2 = 2 - 0 is not below 2: 1
    # below it unigrams count what stood before them: \n nothing, a two (\n, b), b one, c one: n1 = 2, n2 = 1, Y = 1/2,
    # D1 = 1 - 2/4 = 1/2, D2 = 2 - 0 again 1. Discounted: 1/2 + 1/2 + 1 = 2 of 4
    lower = np.array([0, 1, 0.5, 0.5]) / 4 + 2 / 4 / 4
    np.testing.assert_allclose(after(made[2], []), lower)
    backoff = (1 / 3 + 1) / 3  # after a: D1 + D2 of c(a) = 3
    np.testing.assert_allclose(after(made[2], [1]), np.array([0, 0, 1, 2 / 3]) / 3 + backoff * lower)
    np.testing.assert_allclose(after(made[2], [2]), np.array([0, 1, 0, 0]) / 2 + 1 / 2 * lower)
    np.testing.assert_allclose(after(made[2], [3]), lower)  # nothing ever came after c


# By another implementation: dictionaries, one probability at a time


def naive(tokens: Sequence[int], size: int, order: int) -> Callable[[Sequence[int], int], float]:
    """Return p(context, token) of an interpolated modified Kneser-Ney model, computed slowly."""
    stream = [NEWLINE, *tokens]

    def occurrences(k: int) -> list[tuple[int, ...]]:
        # the newline at the start is given, and is not a unigram of the text
        return [tuple(stream[i - k + 1 : i + 1]) for i in range(max(k - 1, 1), len(stream)) if stream[i] != size]

    counts: dict[int, Counter[tuple[int, ...]]] = {order: Counter(occurrences(order))}
    for k in range(1, order):
        before = {(stream[i - k], *stream[i - k + 1 : i + 1]) for i in range(k, len(stream)) if stream[i] != size}
        counts[k] = Counter(gram[1:] for gram in before)
        if k > 1 and len(stream) >= k and stream[k - 1] != size:
            counts[k][tuple(stream[:k])] += 1
    discount: dict[int, list[float]] = {}
    for k, table in counts.items():
        n = [0, *(sum(1 for count in table.values() if count == c) for c in (1, 2, 3, 4))]
        y = n[1] / (n[1] + 2 * n[2]) if n[1] else 0.0
        discount[k] = [0.0]
        for c in (1, 2, 3):
            d = c - (c + 1) * y * n[c + 1] / n[c] if n[c] else 0.0
            discount[k].append(d if 0 < d < c else c / 2)

    def p(context: Sequence[int], token: int) -> float:
        k = len(context) + 1
        below = p(context[1:], token) if k > 1 else 1 / size
        following = {gram[-1]: count for gram, count in counts[k].items() if gram[:-1] == tuple(context)}
        total = sum(following.values())
        if not total:
            return below
        d = [discount[k][min(count, 3)] for count in following.values()]
        count = following.get(token, 0)
        return (count - discount[k][min(count, 3)]) / total + sum(d) / total * below

    return p


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.lists(st.integers(0, 3), max_size=6), st.integers(1, 5))
def test_every_probability_equals_the_slow_implementation(tokens: list[int], context: list[int], order: int) -> None:
    made = models(tokens, 3)  # 3 is the escape
    if order in made:
        p = naive(tokens, 3, order)
        seen = context[len(context) - order + 1 :] if order > 1 else []
        expected = [p(seen, token) for token in range(3)]
        np.testing.assert_allclose(after(made[order], context), expected, rtol=1e-9)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=200), st.integers(1, 10), st.lists(st.integers(0, 5)))
def test_all_probabilities_are_positive_and_add_up_to_1(tokens: list[int], order: int, context: list[int]) -> None:
    made = models(tokens, 5)
    model = made[min(order, len(made))]
    p = after(model, context)
    assert p.min() > 0.0
    assert math.isclose(p.sum(), 1.0, rel_tol=1e-12)


@given(
    st.lists(st.integers(0, 4), min_size=2, max_size=100), st.lists(st.integers(0, 4), min_size=1), st.integers(1, 6)
)
def test_the_score_of_a_text_is_the_sum_over_its_characters(tokens: list[int], text: list[int], order: int) -> None:
    vocabulary = Vocabulary("\nabc", 50, 3)
    made = models(tokens, 4)
    model = made[min(order, len(made))]
    tokens_read = np.array(text, dtype=np.uint8)
    score = model.score(vocabulary, tokens_read)
    one_by_one = score_batch(model, vocabulary, [tokens_read])[0]
    assert score.characters == one_by_one.characters == len(text)
    assert model.nats(vocabulary, tokens_read) == score.nats
    assert math.isclose(score.nats, one_by_one.nats, rel_tol=1e-9)
    (block,) = model.predicted(vocabulary, tokens_read)
    np.testing.assert_allclose(likelihood.target_nats(vocabulary, *block).sum(), score.nats)
    # of two that are equally likely either may be rounded up
    p = np.sort(np.exp(block[0]), -1)
    if (p[:, -1] - p[:, -2] > 1e-9).all():
        assert score.correct == one_by_one.correct


def test_a_long_text_is_scored_in_blocks_that_join(monkeypatch: pytest.MonkeyPatch) -> None:
    vocabulary = Vocabulary("\nabc", 50, 3)
    model = models([1, 2, 3, 1, 2, 1, 0, 3, 2, 1, 2, 3, 3, 1, 2] * 3, 4)[3]
    tokens_read = np.array([1, 2, 3, 4, 1, 2, 1, 0, 3, 2, 2], dtype=np.uint8)
    at_once = model.score(vocabulary, tokens_read)
    monkeypatch.setattr(ngram, "_BLOCK", 4)
    in_blocks = model.score(vocabulary, tokens_read)
    assert (in_blocks.characters, in_blocks.correct) == (at_once.characters, at_once.correct)
    assert math.isclose(in_blocks.nats, at_once.nats)


def test_reading_at_once_is_reading_one_by_one() -> None:
    model = models([1, 2, 3, 1, 2, 1, 0, 3, 2, 1, 2, 3, 3, 1, 2], 4)[4]
    tokens = np.array([[1, 2, 3, 1, 2], [0, 4, 3, 3, 1]])
    features, state = model.read(tokens, model.initial_state(2))
    one = model.initial_state(2)
    for index in range(5):
        read, _ = model.read(tokens[:, index : index + 1], one)
        np.testing.assert_array_equal(read[:, 0], features[:, index])
        logits, one = model.step(tokens[:, index : index + 1], one)
        np.testing.assert_allclose(logits, model.logits(features)[:, index], rtol=1e-12)
    np.testing.assert_array_equal(one.numbers, state.numbers)
    np.testing.assert_array_equal(state.select(np.array([1, 0, 1])).numbers, state.numbers[[1, 0, 1]])
    none, after_none = model.read(tokens[:0, :1], model.initial_state(0))
    assert (none.shape, after_none.numbers.shape) == ((0, 1, 4), (0, 4))


def test_an_order_that_might_have_too_many_grams_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(models([1, 2, 3] * 20, 4)) == ngram.MAX_ORDER
    monkeypatch.setattr(ngram, "MAX_GRAMS", 70)
    assert sorted(models([1, 2, 3] * 20, 4)) == [1, 2, 3]


# The commands


@pytest.fixture
def counted(here: Path, charrnn: Charrnn) -> Path:
    """Count a text into checkpoints/text; return its run folder."""
    result = charrnn("train", "text.txt", "-s", "model.cell=ngram", "--seed", "1")
    assert result.exit_code == 0, result.output
    assert result.stdout == str(Path("checkpoints/text/best.safetensors")) + "\n"
    return here / "checkpoints" / "text"


def test_training_keeps_the_best_order_and_reports_every_one(counted: Path) -> None:
    header = model_file.read_header(counted / "best.safetensors")
    lines = [json.loads(line) for line in (counted / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    bits = [line["validation"]["bits_per_character"] for line in lines]
    assert [line["order"] for line in lines] == list(range(1, len(bits) + 1))
    assert header.config.model.order == 1 + int(np.argmin(bits))
    assert header.latest is not None
    assert header.latest.bits_per_character == min(bits)
    settings = yaml.safe_load((counted / "config.yaml").read_text(encoding="utf-8"))
    assert settings["model"] == {"cell": "ngram", "order": header.config.model.order}
    assert settings["train"] == {"seed": 1}
    assert (counted / "samples.txt").read_text(encoding="utf-8").startswith("--- order ")
    assert not (counted / "last.safetensors").exists()


def test_the_file_holds_the_same_model(counted: Path) -> None:
    reader, vocabulary = inference.load(counted / "best.safetensors")
    header = model_file.read_header(counted / "best.safetensors")
    assert isinstance(reader, Ngram)
    assert header.vocabulary == vocabulary
    text = (counted.parent.parent / "text.txt").read_text(encoding="utf-8")
    validation = text[header.corpus.training : header.corpus.training + header.corpus.validation]
    assert header.latest is not None
    score = reader.score(vocabulary, vocabulary.encode(validation))
    assert (score.nats, score.correct) == (header.latest.nats, header.latest.correct)


def test_a_run_is_repeated_by_its_configuration(counted: Path, charrnn: Charrnn) -> None:
    again = charrnn("train", "-c", str(counted / "config.yaml"), "-o", "again", "-q")
    assert again.exit_code == 0, again.output
    assert Path("again/best.safetensors").read_bytes()[-200:] == (counted / "best.safetensors").read_bytes()[-200:]


def test_it_samples_searches_and_infills(counted: Path, charrnn: Charrnn) -> None:
    assert charrnn("sample", "-p", "the qui", "--greedy", "-n", "9").stdout == "the quick brown \n"
    assert charrnn("sample", "-p", "the qui", "--beam", "3", "-n", "9").stdout == "the quick brown \n"
    assert charrnn("sample", "--infill", "the quick b__wn fox").stdout == "the quick brown fox\n"
    first, second = (charrnn("sample", "-k", "3", "-n", "30", "--seed", "4").stdout for _ in range(2))
    assert first == second
    by_line = charrnn("sample", "--each-line", "--greedy", "-n", "90", stdin="the quick\nlazy\n").stdout
    assert by_line.splitlines()[0] == "the quick brown fox jumps over the lazy dog; pack my box with five dozen jugs."
    assert package.load(str(counted)).sample("the qui", 9, greedy=True) == "ck brown "


def test_it_scores_as_every_model_does(counted: Path, charrnn: Charrnn) -> None:
    Path("other.txt").write_text("the dog\njumps 鸟\n", encoding="utf-8")
    (row,) = (json.loads(line) for line in charrnn("evaluate", "--json", "other.txt").stdout.splitlines())
    assert row["characters"] == 16
    assert charrnn("evaluate", "--exact", "other.txt").exit_code == 0
    by_character = [line.split("\t") for line in charrnn("evaluate", "--per-char", "other.txt").stdout.splitlines()]
    assert sum(float(bits) for _, bits, _ in by_character) == pytest.approx(row["bits_per_character"] * 16, abs=0.001)
    assert sum(rank == "1" for _, _, rank in by_character) == round(row["accuracy"] * 16)
    by_line = [line.split("\t") for line in charrnn("evaluate", "--per-line", "other.txt").stdout.splitlines()]
    assert [(line[2], line[3]) for line in by_line] == [("8", "the dog"), ("8", "jumps 鸟")]
    assert package.load(str(counted)).score("the dog\njumps 鸟\n").nats == pytest.approx(row["nats"])
    held = charrnn("evaluate")
    assert held.exit_code == 0, held.output


def test_info_shows_what_it_is(counted: Path, charrnn: Charrnn) -> None:
    order = model_file.read_header(counted / "best.safetensors").config.model.order
    printed = charrnn("info").stdout
    assert f"architecture  ngram of order {order}\n" in printed
    assert "epochs" not in printed


def test_a_finished_count_is_not_resumed(counted: Path, charrnn: Charrnn) -> None:
    result = charrnn("train", "--resume", "-m", "text")
    assert result.exit_code == 1
    assert "counted in a single pass" in result.stderr
    tuned = charrnn("train", "text.txt", "--init-from", "text")
    assert tuned.exit_code == 2
    assert "has no weights to start from" in tuned.stderr


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["model.hidden_size=7", "model.bidirectional=true"], "Leave out model.hidden_size, model.bidirectional."),
        (["model.dropout=0"], "its only setting is model.order. Leave out model.dropout."),
        (["model.activation=relu"], "model.activation"),
        (["train.epochs=3", "train.optimizer=sgd"], "Leave out train.epochs, train.optimizer."),
        (["train.time=10m"], "Leave out train.time."),
        (["model.order=11"], "model.order is '11'; it must be an integer from 1 to 10, or auto."),
    ],
)
def test_settings_that_ngrams_do_not_take_are_refused(
    given: list[str], said: str, here: Path, charrnn: Charrnn
) -> None:
    options = [word for setting in ("model.cell=ngram", *given) for word in ("-s", setting)]
    result = charrnn("train", "text.txt", *options)
    assert result.exit_code == 2
    assert said in result.stderr
    assert not Path("checkpoints").exists()


def test_an_order_is_only_for_ngrams(here: Path, charrnn: Charrnn) -> None:
    result = charrnn("train", "text.txt", "-s", "model.order=3")
    assert result.exit_code == 2
    assert "model.order is for model.cell=ngram" in result.stderr


def test_a_fixed_order_is_the_only_one_that_is_scored(here: Path, charrnn: Charrnn) -> None:
    result = charrnn("train", "text.txt", "-s", "model.cell=ngram", "-s", "model.order=3")
    assert result.exit_code == 0, result.output
    orders = [line.split()[0] for line in result.stderr.splitlines() if line.split()[0].isdigit()]
    assert orders == ["3"]


def test_an_order_that_the_text_does_not_reach_is_refused_and_leaves_nothing(
    here: Path, charrnn: Charrnn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ngram, "MAX_GRAMS", 900)
    result = charrnn("train", "text.txt", "-s", "model.cell=ngram", "-s", "model.order=9")
    assert result.exit_code == 1
    assert "Set model.order=2 or less" in result.stderr
    assert not Path("checkpoints/text").exists()


def test_an_interrupted_count_leaves_nothing(here: Path, charrnn: Charrnn, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Ngram, "tables", interrupted)
    result = charrnn("train", "text.txt", "-s", "model.cell=ngram")
    assert result.exit_code == 130
    assert list(Path("checkpoints").iterdir()) == []


# Invalid files


def test_a_file_with_training_settings_of_earlier_versions_is_read(counted: Path, charrnn: Charrnn) -> None:
    """Files of earlier versions hold all settings, and were refused when a default among them had changed."""
    path = counted / "best.safetensors"
    tree, _, _ = parts(path)
    content = json.loads(tree["__metadata__"]["charrnn"])
    assert content["config"]["train"] == {"seed": 1}
    assert content["config"]["model"] == {"cell": "ngram", "order": content["config"]["model"]["order"]}
    content["config"]["train"] |= {"weight_decay": 0.01, "schedule": "cosine"}
    content["config"]["model"] |= {"tie_weights": False, "dropout": "auto"}
    old = counted / "old.safetensors"
    old.write_bytes(safetensors.numpy.save(safetensors.numpy.load_file(path), {"charrnn": json.dumps(content)}))
    assert model_file.read_header(old).config == model_file.read_header(path).config
    for command in (("info",), ("evaluate", "text.txt"), ("sample", "-n", "9", "--no-copy", "5")):
        result = charrnn(command[0], "-m", str(old), *command[1:])
        assert result.exit_code == 0, result.output


def changed(counted: Path, name: str, change: Callable[[npt.NDArray[Any]], npt.NDArray[Any]]) -> Path:
    """Copy a model, one table changed."""
    path = counted / "changed.safetensors"
    tree, _, _ = parts(counted / "best.safetensors")
    tables = safetensors.numpy.load_file(counted / "best.safetensors")
    tables[name] = change(tables[name])
    path.write_bytes(safetensors.numpy.save(tables, tree["__metadata__"]))
    return path


def at(index: int, value: int) -> Callable[[npt.NDArray[Any]], npt.NDArray[Any]]:
    def change(table: npt.NDArray[Any]) -> npt.NDArray[Any]:
        table[index] = value
        return table

    return change


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("grams/2/starts", at(0, 1)),
        ("grams/2/starts", at(1, 200)),
        ("grams/2/starts", at(-1, 3)),
        ("grams/2/starts", lambda table: table[:-1]),
        ("grams/2/tokens", at(2, 250)),
        ("grams/2/tokens", lambda table: table[::-1].copy()),
        ("grams/2/tokens", lambda table: table[:0]),
        ("grams/2/counts", lambda table: table[1:]),
        ("grams/2/counts", lambda table: table.astype(np.float32)),
        ("grams/1/counts", at(-1, 5)),
        ("grams/1/tokens", lambda table: table[:-1]),
        ("grams/1/counts", lambda table: table[None]),
    ],
)
def test_invalid_tables_are_refused(
    name: str, change: Callable[[npt.NDArray[Any]], npt.NDArray[Any]], counted: Path
) -> None:
    with pytest.raises(CharRNNError, match="is damaged"):
        inference.load(changed(counted, name, change))


def test_a_wrong_order_in_the_header_is_refused(counted: Path) -> None:
    for order in (1, 9, 10**9, "auto", None, True):
        copied = counted / "lying.safetensors"
        header, content, tensors = parts(counted / "best.safetensors")
        rewrite(copied, header, lie(content, order=order), tensors)
        with pytest.raises(CharRNNError):
            inference.load(copied)
        with pytest.raises(CharRNNError):
            model_file.read_header(copied)


# Pruning


def pruned_by_hand() -> tuple[Ngram, Ngram]:
    """Count a text of which orders 2 and 3 have grams that are worth little; return the model, whole and pruned."""
    whole = models([1, 2, 1, 2, 1, 3, 3, 1, 2, 4, 1, 2, 3, 1, 2, 2, 1, 2, 1, 3] * 3, 4)[3]
    return whole, ngram.prune(whole, 0.3)


def test_dropped_grams_go_on_counting_for_their_context() -> None:
    whole, pruned = pruned_by_hand()
    assert 0 < len(pruned.levels[2].counts) < len(whole.levels[2].counts)
    for level, same in zip(pruned.levels, whole.levels, strict=True):
        np.testing.assert_array_equal(level.discounts, same.discounts)
    # after 1, 2 both models counted the same, and what is dropped is backed off to
    numbers = [model.last_grams(np.array([[1, 2]]), model.initial_state(1))[0, -1] for model in (whole, pruned)]
    (_, often), (_, left) = (model.evidence(one[None]) for model, one in zip((whole, pruned), numbers, strict=True))
    assert often.tolist() == left.tolist()


@given(
    st.lists(st.integers(0, 4), min_size=2, max_size=200),
    st.lists(st.integers(0, 4), max_size=8),
    st.sampled_from([0.01, 0.1, 0.3, 1.0, 9.0]),
    st.integers(2, 6),
)
def test_pruned_probabilities_are_positive_and_add_up_to_1(
    tokens: list[int], context: list[int], nats: float, order: int
) -> None:
    made = models(tokens, 4)  # 4 is the escape
    pruned = ngram.prune(made[min(order, len(made))], nats)
    p = after(pruned, context)
    assert p.min() > 0.0
    assert math.isclose(p.sum(), 1.0, rel_tol=1e-12)
    for level in pruned.levels[1:]:  # the context and the gram without its first character are kept with each gram
        assert (level.grams.suffixes >= 0).all()
    vocabulary = Vocabulary("\nabc", 50, 3)
    text = np.array([*context, 1, 2], dtype=np.uint8)
    score = pruned.score(vocabulary, text)
    one_by_one = score_batch(pruned, vocabulary, [text])[0]
    assert math.isclose(score.nats, one_by_one.nats, rel_tol=1e-9)
    inputs = np.concatenate(([NEWLINE], text[:-1]))[None]
    likelihoods = pruned.distribution(pruned.last_grams(inputs, pruned.initial_state(1))[0])
    likelihoods = np.pad(likelihoods, ((0, 0), (0, 1)))  # the escape's is 0
    own = likelihoods[np.arange(len(text)), text]
    likelihoods[np.arange(len(text)), text] = 0.0
    others = likelihoods.max(-1)  # of equals either may be the likeliest
    assert (own > others + 1e-9).sum() <= score.correct <= (own > others - 1e-9).sum()


@given(st.lists(st.integers(0, 4), min_size=2, max_size=200), st.sampled_from([0.0, 0.1, 0.5]), st.integers(1, 5))
def test_compact_tables_hold_the_same_model(tokens: list[int], nats: float, order: int) -> None:
    made = models(tokens, 4)
    whole = made[min(order, len(made))]
    pruned = ngram.prune(whole, nats)
    tables = pruned.tables()
    assert ngram.fits(pruned.order, {name: table.shape for name, table in tables.items()})
    assert not any(name.endswith("/starts") for name in tables)
    assert pruned.nbytes == sum(table.nbytes for table in tables.values()) <= whole.nbytes + 8 * order
    again = ngram.from_tables(tables, pruned.order, 4)
    numbers, _ = pruned.read(np.array([tokens]), pruned.initial_state(1))
    np.testing.assert_array_equal(again.logits(numbers), pruned.logits(numbers))
    if nats == 0.0:
        np.testing.assert_array_equal(again.logits(numbers), whole.logits(numbers))
    assert {name: table.tolist() for name, table in again.tables().items()} == {
        name: table.tolist() for name, table in tables.items()
    }


def test_a_gram_is_worth_what_the_text_is_expected_to_lose_without_it() -> None:
    """Stolcke's relative entropy over all characters; beside other followers it is approximated from below."""
    model = models([1, 2, 1, 2, 1, 3, 3, 1, 2, 4, 1, 2, 3, 1, 0, 1, 2, 2, 0, 2, 1, 2, 1, 3, 3, 2], 4)[2]
    level, size = model.levels[1], 4
    below = after(model, [])
    worth = ngram_pruning._losses(level, level.totals)

    def distribution(one: ngram_counts.Level, context: int) -> npt.NDArray[np.float64]:
        p: npt.NDArray[np.float64] = one.backoffs[context] * below
        for gram in range(one.grams.starts[context], one.grams.starts[context + 1]):
            if one.grams.tokens[gram] < size:
                p[one.grams.tokens[gram]] += one.first_terms(np.array([gram]), context)[0]
        return p

    alone = 0
    for gram, context in enumerate(level.grams.contexts):
        keep = np.arange(len(level.counts)) != gram
        without = ngram_pruning._restricted(level, keep, np.ones(size + 1, dtype=bool), model.levels[0])
        p, q = distribution(level, context), distribution(without, context)
        expected = level.totals[context] * (p * np.log(p / q)).sum()
        assert 0.0 <= worth[gram] <= expected + 1e-12
        if (level.grams.contexts == context).sum() == 1 and level.grams.tokens[gram] < size:
            alone += 1
            assert math.isclose(worth[gram], expected)
    assert alone


def test_without_any_gram_left_an_order_is_gone() -> None:
    whole = models([1, 2, 3, 1, 2, 1, 0, 3, 2, 1], 4)[4]
    alone = ngram.prune(whole, 1e9)
    assert alone.order == 1
    np.testing.assert_allclose(after(alone, [1, 2]), after(whole, []))


def test_counts_of_255_and_more_stand_in_tables_of_their_own() -> None:
    whole = models([1, 2] * 400 + [1, 3, 2, 3, 3, 1, 1, 2, 2] * 2, 4)[5]
    tables = ngram.prune(whole, 0.0).tables()
    assert tables["grams/5/counts"].dtype == np.uint8
    assert tables["grams/5/counts/large"].dtype == np.uint16
    again = ngram.from_tables(tables, 5, 4)
    np.testing.assert_array_equal(again.levels[4].counts, whole.levels[4].counts)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("grams/2/lengths", at(0, 3)),
        ("grams/2/lengths", lambda table: table[:-1]),
        ("grams/3/dropped", lambda table: table[:-1]),
        ("grams/3/dropped", lambda table: table.astype(np.int64) - 1000),
        ("grams/3/dropped", lambda table: table.astype(np.int64) + 2**40),
        ("grams/3/rare", lambda table: table[:3]),
        ("grams/3/rare", lambda table: table * 0),
        ("grams/3/rare", lambda table: table.astype(np.int64) + 2**40),
        ("grams/3/thinned", lambda table: table[1:]),
        ("grams/3/thinned", lambda table: table.astype(np.uint16)),
        ("grams/4/counts/large", lambda table: table[1:]),
        ("grams/2/tokens", lambda table: table[::-1].copy()),
        ("grams/3/counts", lambda table: table[1:]),
    ],
)
def test_invalid_compact_tables_are_named(name: str, change: Callable[[npt.NDArray[Any]], npt.NDArray[Any]]) -> None:
    draw = np.random.default_rng(3)
    text = np.minimum(draw.integers(0, 4, 9000), draw.integers(0, 4, 9000))
    pruned = ngram.prune(models(text.tolist(), 4)[4], 0.05)
    tables = pruned.tables()
    tables[name] = change(tables[name].copy())
    with pytest.raises(ValueError, match=f"^{name}$"):
        ngram.from_tables(tables, 4, 4)


def test_tables_of_another_model_do_not_fit() -> None:
    pruned = ngram.prune(models([1, 2, 1, 2, 1, 3, 3, 1, 2, 1, 1, 3, 2] * 9, 4)[3], 0.1)
    shapes = {name: table.shape for name, table in pruned.tables().items()}
    assert ngram.fits(3, shapes)
    assert "grams/3/dropped" in shapes
    for name in shapes:
        assert ngram.fits(3, {each: shape for each, shape in shapes.items() if each != name}) == name.endswith("/large")
        assert not ngram.fits(3, shapes | {name: (1, 1)})
    for name in ("grams/3/starts", "grams/3/rare/large/large", "grams/4/tokens", "grams/2/large"):
        assert not ngram.fits(3, shapes | {name: (1,)})


def test_evidence_is_the_longest_context_after_which_anything_was_counted() -> None:
    model = models([1, 2, 1, 2, 1, 3], 4)[3]
    for text, order, count in (([1, 2], 3, 2), ([3, 3], 1, 4), ([1, 3], 1, 4), ([3, 1], 2, 3)):
        numbers = model.last_grams(np.array([text]), model.initial_state(1))[0, -1]
        assert [each.tolist() for each in model.evidence(numbers[None])] == [[order], [count]]
        assert model.evidence_of_one(numbers[numbers >= 0].tolist()) == (order, count)


def test_threads_may_share_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ngram, "_KEPT", 10 * 5 * 8)  # what is kept is dropped all the time
    monkeypatch.setattr(ngram, "_KNOWN", 3)
    draw = np.random.default_rng(2)
    model = models(draw.integers(0, 4, 500).tolist(), 4)[5]
    tokens = draw.integers(0, 5, (1, 400))
    numbers = model.last_grams(tokens, model.initial_state(1))[0]
    expected, orders_and_counts = model.distribution(numbers), np.column_stack(model.evidence(numbers))

    def step_through(_: int) -> None:
        state = model.initial_state(1)
        for index in range(400):
            each = model.next_grams(tokens[:, index : index + 1], state)
            np.testing.assert_allclose(model.after(each)[0], expected[index], rtol=1e-12)
            assert model.evidence_of_one(each[0]) == tuple(orders_and_counts[index])
            state = model.contexts(each)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as threads:
            assert list(threads.map(step_through, range(8))) == [None] * 8
    finally:
        sys.setswitchinterval(interval)


def test_distributions_that_are_kept_are_bounded_and_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ngram, "_KEPT", 10 * 5 * 8)  # ten of V+1 numbers
    draw = np.random.default_rng(2)
    model = models(draw.integers(0, 4, 500).tolist(), 4)[5]
    tokens = draw.integers(0, 5, (1, 300))
    expected, state = model.logits(model.read(tokens, model.initial_state(1))[0])[0], model.initial_state(1)
    for index in range(300):
        logits, state = model.step(tokens[:, index : index + 1], state)
        np.testing.assert_allclose(logits[0], expected[index], rtol=1e-12)
        assert len(model._kept) <= 11
