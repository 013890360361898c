"""What simpler models need: by hand, kept in the model file, shown beside every score."""

from __future__ import annotations

import json
import lzma
import math
from pathlib import Path

import numpy as np
import pytest

from charrnn.checkpoints import model_file
from charrnn.data.corpus import Corpus, Split
from charrnn.data.vocabulary import Vocabulary
from charrnn.errors import CharRNNError
from charrnn.evaluation import baselines
from charrnn.evaluation.baselines import measure
from tests.checkpoints.test_model_file import parts, rewrite
from tests.conftest import TEXT, Charrnn, settings


def test_uniform_and_unigram_by_hand() -> None:
    vocabulary = Vocabulary.of("aaab")  # a, b, and the newline, which never came
    tokens = vocabulary.encode("ab鸟\n")
    found = measure(vocabulary, (3, 1, 0), tokens)
    rest = 3 * vocabulary.known_nats + vocabulary.escape_nats
    assert found.uniform == pytest.approx(3 * math.log(3) + rest)
    assert found.unigram == pytest.approx(-math.log(3 / 5) - 2 * math.log(1 / 5) + rest)
    assert (found.characters, found.whole, set(found.named())) == (4, False, {"uniform", "unigram"})


def test_xz_needs_what_a_text_adds_to_the_packed_one() -> None:
    def packed(text: str) -> int:
        strongest = {"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME}
        return len(lzma.compress(text.encode(), lzma.FORMAT_RAW, filters=[strongest]))

    more = "a quick 鸟 jumps over my box\n" * 3
    assert baselines.growth(TEXT, more) == 8 * (packed(TEXT + more) - packed(TEXT))
    assert baselines.growth(TEXT, "") is None


def corpus(training: str, validation: str, min_count: int = 1, known: str = "") -> Corpus:
    counts = np.bincount([ord(character) for character in training], minlength=0x110000)
    vocabulary = Vocabulary.counted(counts, min_count, known)
    made = []
    for text in (training, validation, ""):
        unknown = np.array([ord(each) for each in text if each not in vocabulary.characters], dtype=np.uint32)
        made.append(Split(vocabulary.encode(text), np.zeros(1, np.int64), unknown, vocabulary))
    return Corpus(made[0], made[1], made[2], vocabulary, False)


@pytest.mark.parametrize("min_count", [1, 13])
def test_what_an_earlier_model_knows_is_not_given_to_simpler_ones(min_count: int) -> None:
    """They learn from the training part: j comes 12 times there, Q and 鸟 never."""
    texts = TEXT, TEXT[:100] + "Q鸟Q jug"
    alone, tuned = corpus(*texts, min_count), corpus(*texts, min_count, known="Q鸟az龙\n")
    assert (alone.vocabulary.unseen, tuned.vocabulary.unseen) == (0, 3)
    assert baselines.compute(tuned).validation == baselines.compute(alone).validation
    counts = baselines.count(tuned)
    assert tuned.vocabulary.alone(counts) == alone.vocabulary
    assert len(counts) == len(tuned.vocabulary)
    assert measure(tuned.vocabulary, counts, tuned.validation.tokens) == measure(
        alone.vocabulary, baselines.count(alone), alone.validation.tokens
    )


def test_the_order_is_the_one_that_the_validation_part_needs_least_with() -> None:
    whole = corpus(TEXT, TEXT[:100])
    by_order = {
        order: baselines.chosen(whole, order).score(whole.vocabulary, whole.validation.tokens).nats
        for order in range(1, 11)
    }
    found = baselines.compute(whole)
    assert found.test is None
    assert found.validation.ngram == by_order[found.validation.order or 0]
    assert found.validation.ngram <= by_order[1]
    assert found.counts == tuple(TEXT.count(character) for character in whole.vocabulary.characters)


def test_a_long_text_waits_for_an_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baselines, "SOON", 500)
    assert set(baselines.compute(corpus(TEXT, TEXT[:100])).validation.named()) == {"uniform", "unigram"}


@pytest.fixture
def learnt(here: Path, charrnn: Charrnn) -> Path:
    result = charrnn("train", "text.txt", "-q", *settings("train.steps=3", "data.split=[0.8,0.1,0.1]"))
    assert result.exit_code == 0, result.output
    return here / "checkpoints" / "text"


def test_those_of_the_held_out_parts_are_kept_and_shown_without_the_text(learnt: Path, charrnn: Charrnn) -> None:
    header = model_file.read_header(learnt / "best.safetensors")
    assert header.baselines is not None
    assert header.baselines.test is not None
    assert header.baselines.test.whole
    row = json.loads(charrnn("evaluate", "--json").stdout)
    assert row["baselines"] == header.baselines.test.fields()
    table = charrnn("evaluate").stdout.splitlines()
    assert [line.split("  ")[0] for line in table[2:]] == [
        "uniform", "unigram", "xz", f"n-gram of order {header.baselines.test.order}"
    ]  # fmt: skip
    assert charrnn("info").stdout.count("simpler       uniform ") == 2
    assert model_file.read_header(learnt / "last.safetensors").baselines == header.baselines


def test_those_of_another_text_need_the_training_text(learnt: Path, charrnn: Charrnn) -> None:
    Path("other.txt").write_text("the lazy fox\n", encoding="utf-8")
    whole = json.loads(charrnn("evaluate", "--json", "other.txt").stdout)["baselines"]
    assert set(whole) == {"uniform", "unigram", "xz", "ngram"}
    Path("text.txt").write_text(TEXT + "changed\n", encoding="utf-8")
    part = json.loads(charrnn("evaluate", "--json", "other.txt").stdout)["baselines"]
    assert part == {name: whole[name] for name in ("uniform", "unigram")}


def test_models_of_one_text_share_their_baselines(learnt: Path, charrnn: Charrnn) -> None:
    table = charrnn("evaluate", "-m", "text", "-m", str(learnt), "text.txt").stdout.splitlines()
    assert [line.split("  ")[0] for line in table].count("unigram") == 1
    Path("more.txt").write_text(TEXT.upper(), encoding="utf-8")
    assert charrnn("train", "more.txt", "-q", *settings("train.steps=3")).exit_code == 0
    table = charrnn("evaluate", "-m", "text", "-m", "more", "text.txt").stdout.splitlines()
    names = [line.split("  ")[0] for line in table]
    assert "unigram" in names
    assert "unigram (more)" in names


def test_a_file_of_before_has_none_until_the_text_is_at_hand(learnt: Path, charrnn: Charrnn) -> None:
    path = learnt / "best.safetensors"
    kept = json.loads(charrnn("evaluate", "--json").stdout)["baselines"]
    header, content, tensors = parts(path)
    rewrite(path, header, {name: value for name, value in content.items() if name != "baselines"}, tensors)
    assert model_file.read_header(path).baselines is None
    assert json.loads(charrnn("evaluate", "--json").stdout)["baselines"] == kept
    Path("text.txt").rename("other.txt")
    assert "baselines" not in json.loads(charrnn("evaluate", "--json", "other.txt").stdout)


@pytest.mark.parametrize("lies", [3, {"counts": [1], "validation": {}}, {"counts": "many"}])
def test_garbled_baselines_are_a_sentence(lies: object, learnt: Path) -> None:
    path = learnt / "best.safetensors"
    header, content, tensors = parts(path)
    rewrite(path, header, content | {"baselines": lies}, tensors)
    with pytest.raises(CharRNNError, match="is damaged"):
        model_file.read_header(path)
