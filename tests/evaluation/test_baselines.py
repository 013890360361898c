"""Baselines are right by hand, stored in the model file, and shown beside every score."""

from __future__ import annotations

import json
import lzma
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from charrnn.checkpoints import model_file, ngram_cache
from charrnn.data.corpus import Corpus, Split
from charrnn.data.vocabulary import Vocabulary
from charrnn.errors import CharRNNError
from charrnn.evaluation import baselines
from charrnn.evaluation.baselines import measure
from charrnn.models import ngram
from tests.checkpoints.test_model_file import parts, rewrite
from tests.conftest import TEXT, Charrnn, settings

MODEL = Path("checkpoints", "text", "best.safetensors")


def test_uniform_and_unigram_by_hand() -> None:
    vocabulary = Vocabulary.from_text("aaab")  # a, b, and the newline, which does not occur
    tokens = vocabulary.encode("ab鸟\n")
    found = measure(vocabulary, (3, 1, 0), tokens)
    rest = 3 * vocabulary.known_nats + vocabulary.escape_nats
    assert found.uniform == pytest.approx(3 * math.log(3) + rest)
    assert found.unigram == pytest.approx(-math.log(3 / 5) - 2 * math.log(1 / 5) + rest)
    assert (found.characters, found.complete, set(found.by_name())) == (4, False, {"uniform", "unigram"})


def test_xz_bits_are_what_a_text_adds_to_the_compressed_training_text() -> None:
    def compressed(text: str) -> int:
        strongest = {"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME}
        return len(lzma.compress(text.encode(), lzma.FORMAT_RAW, filters=[strongest]))

    more = "a quick 鸟 jumps over my box\n" * 3
    assert baselines.xz_bits(TEXT, more) == 8 * (compressed(TEXT + more) - compressed(TEXT))
    assert baselines.xz_bits(TEXT, "") is None


def corpus(training: str, validation: str, min_count: int = 1, known: str = "") -> Corpus:
    counts = np.bincount([ord(character) for character in training], minlength=0x110000)
    vocabulary = Vocabulary.from_counts(counts, min_count, known)
    splits = []
    for text in (training, validation, ""):
        unknown = np.array([ord(each) for each in text if each not in vocabulary.characters], dtype=np.uint32)
        splits.append(Split(vocabulary.encode(text), np.zeros(1, np.int64), unknown, vocabulary))
    return Corpus(splits[0], splits[1], splits[2], vocabulary, False)


@pytest.mark.parametrize("min_count", [1, 13])
def test_baselines_know_only_characters_of_the_training_split(min_count: int) -> None:
    """Not those of an earlier model: j occurs 12 times in the training split, Q and 鸟 never."""
    texts = TEXT, TEXT[:100] + "Q鸟Q jug"
    alone, tuned = corpus(*texts, min_count), corpus(*texts, min_count, known="Q鸟az龙\n")
    assert (alone.vocabulary.unseen, tuned.vocabulary.unseen) == (0, 3)
    assert baselines.compute(tuned).validation == baselines.compute(alone).validation
    counts = baselines.count(tuned)
    assert tuned.vocabulary.without_inherited(counts) == alone.vocabulary
    assert len(counts) == len(tuned.vocabulary)
    assert measure(tuned.vocabulary, counts, tuned.validation.tokens) == measure(
        alone.vocabulary, baselines.count(alone), alone.validation.tokens
    )


def test_the_ngram_order_has_the_lowest_validation_loss() -> None:
    made = corpus(TEXT, TEXT[:100])
    by_order = {
        order: baselines.best_ngram(made, order).nats(made.vocabulary, made.validation.tokens) for order in range(1, 11)
    }
    found = baselines.compute(made)
    assert found.test is None
    assert found.validation.ngram == by_order[found.validation.order or 0]
    assert found.validation.ngram <= by_order[1]
    assert found.counts == tuple(TEXT.count(character) for character in made.vocabulary.characters)


def test_a_long_text_has_no_xz_and_ngram_before_an_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baselines, "MAX_AT_START", 500)
    assert set(baselines.compute(corpus(TEXT, TEXT[:100])).validation.by_name()) == {"uniform", "unigram"}


@pytest.fixture
def trained_run(here: Path, charrnn: Charrnn) -> Path:
    result = charrnn("train", "text.txt", "-q", *settings("train.steps=3", "data.split=[0.8,0.1,0.1]"))
    assert result.exit_code == 0, result.output
    return here / "checkpoints" / "text"


def test_baselines_of_held_out_splits_are_stored_and_shown_without_the_text(
    trained_run: Path, charrnn: Charrnn
) -> None:
    header = model_file.read_header(trained_run / "best.safetensors")
    assert header.baselines is not None
    assert header.baselines.test is not None
    assert header.baselines.test.complete
    row = json.loads(charrnn("evaluate", "--json").stdout)
    assert row["baselines"] == header.baselines.test.fields()
    table = charrnn("evaluate").stdout.splitlines()
    assert [line.strip().split("  ")[0] for line in table[3:]] == [
        "baselines", "uniform", "unigram", "xz", f"{header.baselines.test.order}-gram"
    ]  # fmt: skip
    assert charrnn("info").stdout.count("baselines     uniform ") == 2
    assert model_file.read_header(trained_run / "last.safetensors").baselines == header.baselines


def test_xz_and_ngram_of_another_text_need_the_training_text(trained_run: Path, charrnn: Charrnn) -> None:
    Path("other.txt").write_text("the lazy fox\n", encoding="utf-8")
    complete = json.loads(charrnn("evaluate", "--json", "--baselines", "other.txt").stdout)["baselines"]
    assert set(complete) == {"uniform", "unigram", "xz", "ngram"}
    Path("text.txt").write_text(TEXT + "changed\n", encoding="utf-8")
    result = charrnn("evaluate", "--json", "--baselines", "other.txt")
    why = f"{Path('text.txt').absolute()}: the text has changed since {MODEL} was trained on it."
    assert result.stderr.splitlines()[-1] == f"{MODEL.parent}: no baseline by xz. {why}"
    partial = json.loads(result.stdout)["baselines"]
    assert partial == {name: complete[name] for name in ("uniform", "unigram", "ngram")}  # the last one was kept
    (trained_run / ngram_cache.FILE).unlink()
    result = charrnn("evaluate", "--json", "--baselines", "other.txt")
    assert json.loads(result.stdout)["baselines"] == {name: complete[name] for name in ("uniform", "unigram")}
    assert result.stderr.splitlines()[-1] == f"{MODEL.parent}: no baseline by xz and an n-gram model. {why}"
    Path("text.txt").unlink()
    why = f"{Path('text.txt').absolute()}: the text that {MODEL} was trained on is gone."
    assert charrnn("evaluate", "--baselines", "other.txt").stderr.endswith(f"by xz and an n-gram model. {why}\n")


def test_of_a_text_that_is_too_long_the_cause_is_told(
    trained_run: Path, charrnn: Charrnn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was once said that the training text was gone, changed or too long."""
    command = ["evaluate", "-m", "text", "--json", "--baselines", "other.txt"]
    training = model_file.read_header(MODEL).corpus.training
    for length, most in ((1200, 1200), (1200, 1199), (120, training - 1)):
        Path("other.txt").write_text("a dog\n" * (length // 6), encoding="utf-8")
        monkeypatch.setattr(baselines, "MAX_ON_DEMAND", most)
        said = charrnn(*command).stderr
        what = f"training split has {training:,}" if most < training else "text has 1,200"
        assert said == (
            f"text: no baseline by xz. The {what} characters, and at most {most:,} are read for baselines.\n"
            if most != length
            else ""
        )


def test_where_xz_grows_by_no_byte_nothing_is_said_of_it(
    trained_run: Path, charrnn: Charrnn, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("other.txt").write_text("the", encoding="utf-8")
    monkeypatch.setattr(baselines, "xz_bits", lambda *_: None)
    result = charrnn("evaluate", "-m", "text", "--json", "--baselines", "other.txt")
    assert (set(json.loads(result.stdout)["baselines"]), result.stderr) == ({"uniform", "unigram", "ngram"}, "")


def test_a_short_text_waits_for_xz_and_ngrams_only_where_they_are_requested(
    trained_run: Path, charrnn: Charrnn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(baselines, "MIN_ON_DEMAND", 20)
    for text, options, names in (
        ("x" * 19, [], {"uniform", "unigram"}),
        ("x" * 20, [], {"uniform", "unigram", "xz", "ngram"}),
        ("x" * 19, ["--baselines"], {"uniform", "unigram", "xz", "ngram"}),
    ):
        Path("other.txt").write_text(text, encoding="utf-8")
        row = json.loads(charrnn("evaluate", "--json", "other.txt", *options).stdout)
        assert set(row["baselines"]) == names
    table = charrnn("evaluate", "--no-baselines", "text.txt", "other.txt").stdout
    assert "baselines" not in table
    assert "baselines" not in json.loads(charrnn("evaluate", "--json", "--no-baselines").stdout)
    refused = charrnn("evaluate", "--baselines", "--per-line", "other.txt")
    assert (refused.exit_code, refused.stdout) == (2, "")


def grown(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count how often n-grams are counted from now on; returns a list that grows by one each time."""
    times: list[int] = []
    grow = ngram.grow

    def watched(*arguments: Any) -> Any:
        times.append(1)
        return grow(*arguments)

    monkeypatch.setattr(ngram, "grow", watched)
    return times


def test_ngrams_are_counted_once_and_kept_beside_the_run(
    trained_run: Path, charrnn: Charrnn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A text of 282 characters took as long as to count all n-grams of the training text, each time anew."""
    times, command = grown(monkeypatch), ["evaluate", "-m", "text", "--json", "--baselines", "text.txt"]
    first = charrnn(*command)
    assert (first.exit_code, len(times)) == (0, 1)
    assert charrnn(*command).stdout == first.stdout
    assert len(times) == 1
    assert charrnn("sample", "-m", str(trained_run / ngram_cache.FILE), "-n", "9").exit_code == 0  # a model like others
    alone = Path("alone.safetensors")  # a copied model has no folder to keep anything in
    alone.write_bytes((trained_run / "best.safetensors").read_bytes())
    copied = charrnn("evaluate", "-m", str(alone), "--json", "--baselines", "text.txt")
    assert json.loads(copied.stdout)["baselines"] == json.loads(first.stdout)["baselines"]
    assert not Path(ngram_cache.FILE).exists()


@pytest.mark.parametrize(
    "wrong",
    [
        "missing",
        "cut off",
        "no model",
        "of another seed",
        "of another text",
        "of other counts",
        "of an earlier version",
        "read-only",
    ],
)
def test_a_wrong_file_of_ngrams_is_counted_again(
    trained_run: Path, charrnn: Charrnn, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    command = ["evaluate", "-m", "text", "--json", "--baselines", "text.txt"]
    first, file = charrnn(*command), trained_run / ngram_cache.FILE
    kept = file.read_bytes()
    header, content, tensors = parts(file)
    if wrong == "missing":
        file.unlink()
    elif wrong == "cut off":
        file.write_bytes(kept[:-7])
    elif wrong == "no model":
        file.write_bytes(b"no model")
    elif wrong == "of another seed":
        rewrite(file, header, content | {"config": content["config"] | {"train": {"seed": 7}}}, tensors)
    elif wrong == "of another text":
        rewrite(file, header, content | {"corpus": content["corpus"] | {"sha256": "0" * 64}}, tensors)
    elif wrong == "of other counts":  # as a bad disk makes them: the tables are still valid
        first_count = header["grams/1/counts"]["data_offsets"][0]
        flipped = bytes([tensors[first_count] ^ 1])
        rewrite(file, header, content, tensors[:first_count] + flipped + tensors[first_count + 1 :])
    elif wrong == "of an earlier version":  # nothing to compare its tables with
        del content["tables_sha256"]
        rewrite(file, header, content, tensors)
    else:
        file.unlink()
        monkeypatch.setattr(model_file, "write_tables", unwritable)
    times = grown(monkeypatch)
    again = charrnn(*command)
    assert (again.exit_code, again.stdout, again.stderr, len(times)) == (0, first.stdout, first.stderr, 1)
    assert not file.exists() if wrong == "read-only" else file.read_bytes() == kept


def unwritable(path: Path, *_: object) -> None:
    raise CharRNNError(f"{path}: cannot be written (Permission denied).")


def test_large_ngram_models_are_not_kept(trained_run: Path, charrnn: Charrnn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ngram_cache, "MAX_BYTES", 100)
    assert charrnn("evaluate", "--baselines", "text.txt").exit_code == 0
    assert not (trained_run / ngram_cache.FILE).exists()


def test_an_ngram_model_of_the_best_order_is_its_own_baseline(
    here: Path, charrnn: Charrnn, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert charrnn("train", "text.txt", "-q", "-s", "model.cell=ngram", "--seed", "1").exit_code == 0
    times = grown(monkeypatch)
    row = json.loads(charrnn("evaluate", "--json", "--baselines", "text.txt").stdout)
    assert row["baselines"]["ngram"]["nats"] == row["nats"]
    assert times == []


def test_baselines_of_a_fine_tuned_model_are_kept_without_inherited_characters(
    trained_run: Path, charrnn: Charrnn, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("new.txt").write_text("quiet foxes sleep\n" * 20, encoding="utf-8")
    assert charrnn("train", "new.txt", "-q", "--init-from", "text", "-s", "train.steps=2", "--seed", "1").exit_code == 0
    command = ["evaluate", "-m", "new", "--json", "--baselines", "text.txt"]
    first, times = charrnn(*command).stdout, grown(monkeypatch)
    assert "ngram" in json.loads(first)["baselines"]
    assert (charrnn(*command).stdout, times) == (first, [])


def test_models_of_one_text_share_their_baselines(trained_run: Path, charrnn: Charrnn) -> None:
    table = charrnn("evaluate", "-m", "text", "-m", str(trained_run), "text.txt", "--baselines").stdout.splitlines()
    assert [line.strip().split("  ")[0] for line in table].count("unigram") == 1
    Path("more.txt").write_text(TEXT.upper(), encoding="utf-8")
    assert charrnn("train", "more.txt", "-q", *settings("train.steps=3")).exit_code == 0
    table = charrnn("evaluate", "-m", "text", "-m", "more", "text.txt").stdout.splitlines()
    names = [line.strip().split("  ")[0] for line in table]
    assert "unigram" in names
    assert "unigram (more)" in names


def test_an_older_file_has_no_baselines_until_the_text_is_available(trained_run: Path, charrnn: Charrnn) -> None:
    path = trained_run / "best.safetensors"
    stored = json.loads(charrnn("evaluate", "--json").stdout)["baselines"]
    header, content, tensors = parts(path)
    rewrite(path, header, {name: value for name, value in content.items() if name != "baselines"}, tensors)
    assert model_file.read_header(path).baselines is None
    assert json.loads(charrnn("evaluate", "--json").stdout)["baselines"] == stored
    Path("text.txt").rename("other.txt")
    assert "baselines" not in json.loads(charrnn("evaluate", "--json", "other.txt").stdout)


@pytest.mark.parametrize("garbled", [3, {"counts": [1], "validation": {}}, {"counts": "many"}])
def test_garbled_baselines_are_reported(garbled: object, trained_run: Path) -> None:
    path = trained_run / "best.safetensors"
    header, content, tensors = parts(path)
    rewrite(path, header, content | {"baselines": garbled}, tensors)
    with pytest.raises(CharRNNError, match="is damaged"):
        model_file.read_header(path)
