"""Claims about several models as one, on the command line and in Python."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import charrnn as package
from charrnn.errors import MisuseError
from tests.cli.test_main import assert_sentence
from tests.conftest import TEXT, Charrnn, close, settings

HALF = ("--weights", "1,1")


@pytest.fixture
def both(runs: dict[str, Path]) -> list[str]:
    """Name a network and an n-gram model of the same text."""
    return ["--ensemble", "-m", str(runs["causal"]), "-m", str(runs["ngram"])]


@pytest.fixture
def ensemble(runs: dict[str, Path]) -> package.Ensemble:
    return package.ensemble([runs["causal"], runs["ngram"]], [1, 1])


def printed(charrnn: Charrnn, *arguments: str, stdin: str | None = None) -> str:
    result = charrnn(*arguments, stdin=stdin)
    assert result.exit_code == 0, result.stderr
    return result.stdout


def test_a_text_is_scored_as_the_mean_of_the_probabilities(both: list[str], charrnn: Charrnn, here: Path) -> None:
    Path("other.txt").write_text("the quick 鸟 brown dog\nfox jugs\n", encoding="utf-8")

    def nats(*models: str) -> np.ndarray:
        lines = printed(charrnn, "evaluate", "--per-char", "--json", *models, "other.txt").splitlines()
        return np.array([json.loads(line)["nats"] for line in lines])

    expected = -np.log(0.75 * np.exp(-nats(*both[1:3])) + 0.25 * np.exp(-nats(*both[3:5])))
    found = nats(*both, "--weights", "3,1")
    close(found, expected, 1e-5)
    (row,) = printed(charrnn, "evaluate", "--json", *both, "--weights", "3,1", "other.txt").splitlines()
    scored = json.loads(row)
    close(scored["nats"], expected.sum(), 1e-5)
    assert scored["weights"] == [0.75, 0.25]
    assert scored["model"] == f"{both[2]} + {both[4]}"
    assert "unigram" in scored["baselines"]


@pytest.mark.parametrize("output", ["--per-line", "--per-char"])
def test_parts_of_a_text_have_no_column_for_the_only_model(output: str, both: list[str], charrnn: Charrnn) -> None:
    lines = printed(charrnn, "evaluate", output, *both, *HALF, "-", stdin="fox\n").splitlines()
    assert len(lines[0].split("\t")) == (4 if output == "--per-line" else 3)


def test_weights_are_chosen_on_validation_and_named(both: list[str], charrnn: Charrnn) -> None:
    result = charrnn("evaluate", *both)
    assert result.exit_code == 0, result.stderr
    assert "(chosen on the validation split; --weights sets others)" in result.stderr
    assert "test split), " in result.stdout
    table = result.stdout.splitlines()
    assert [line.split()[0] for line in table[3:]] == ["baselines", "uniform", "unigram", "xz", *[table[-1].split()[0]]]


def test_weights_of_models_of_different_splits_are_equal_and_there_is_no_held_out_text(
    runs: dict[str, Path], here: Path, charrnn: Charrnn
) -> None:
    other = ("-s", "model.cell=ngram", "--seed", "2", "-s", "data.split=[0.8, 0.1, 0.1]")
    printed(charrnn, "train", "text.txt", "-q", "-o", "other", *other)
    models = ["--ensemble", "-m", str(runs["ngram"]), "-m", "other"]
    result = charrnn("sample", *models, "-n", "5", "--seed", "1")
    assert result.exit_code == 0, result.stderr
    assert "0.500 other (equal, since the models were trained on different texts or splits" in result.stderr
    refused = charrnn("evaluate", *models)
    assert refused.exit_code == 2
    assert "share no held-out one; name TEXT" in refused.stderr


def test_the_validation_split_does_not_choose_the_weights_that_it_is_scored_with(here: Path, charrnn: Charrnn) -> None:
    for name, given in (("a", settings("train.steps=5")), ("b", ["-s", "model.cell=ngram", "--seed", "1"])):
        printed(charrnn, "train", "text.txt", "-q", "-o", name, *given, "-s", "data.split=[0.8, 0.2, 0]")
    result = charrnn("evaluate", "--ensemble", "-m", "a", "-m", "b")
    assert result.exit_code == 0, result.stderr
    assert "0.500 a + 0.500 b (equal, since what is scored is the validation split itself" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("-n", "30", "-p", "the "),
        ("-n", "30", "-k", "3"),
        ("-n", "20", "--no-copy", "12"),
        ("-n", "12", "--pattern", "[a-f ]*"),
        ("--each-line",),
    ],
)
def test_samples_of_a_whole_weight_are_those_of_that_model(
    arguments: tuple[str, ...], runs: dict[str, Path], both: list[str], charrnn: Charrnn
) -> None:
    drawn = ("sample", *arguments, "--seed", "3", "--json")
    given = {"stdin": "the\nfox\n"} if "--each-line" in arguments else {}
    alone = printed(charrnn, *drawn, "-m", str(runs["ngram"]), **given)
    mixed = printed(charrnn, *drawn, *both, "--weights", "0,1", **given)
    assert [json.loads(line)["text"] for line in mixed.splitlines()] == [
        json.loads(line)["text"] for line in alone.splitlines()
    ]


def test_whole_documents_are_written_and_scored_by_models_of_the_same_ones(here: Path, charrnn: Charrnn) -> None:
    for order in ("2", "4"):
        given = ("-s", "model.cell=ngram", "-s", f"model.order={order}", "-s", "data.documents=line", "--seed", "1")
        printed(charrnn, "train", "text.txt", "-q", "-o", order, *given)
    models = ("--ensemble", "-m", "2", "-m", "4")
    lines = printed(charrnn, "sample", *models, "-k", "3", "--seed", "1", "--json").splitlines()
    made = [json.loads(line) for line in lines]
    assert [each["ended_by"] for each in made] == ["document"] * 3
    text = "".join(each["text"] + "\n" for each in made)
    scored = printed(charrnn, "evaluate", "--per-document", *models, "-", stdin=text).splitlines()
    assert len(scored) == 3


@pytest.mark.parametrize(
    "arguments",
    [("--beam", "4", "-n", "9"), ("--infill", "th_ qui_k"), ("-p", "the ", "--suffix", "fox", "-n", "3")],
)
def test_searches_are_scored_by_the_mixture(
    arguments: tuple[str, ...], both: list[str], charrnn: Charrnn, ensemble: package.Ensemble
) -> None:
    (line,) = printed(charrnn, "sample", *arguments, *both, *HALF, "--json").splitlines()
    found = json.loads(line)
    if "--beam" in arguments:
        close(found["bits_per_character"], ensemble.score(found["text"]).bits_per_character, 1e-5)
    else:
        gapped = arguments[1] if "--infill" in arguments else "the ___fox"
        close(found["nats"], ensemble.infill(gapped)[0].nats, 1e-6)


def test_a_bidirectional_part_fills_gaps_with_its_joint_head(runs: dict[str, Path], charrnn: Charrnn) -> None:
    models = ("-m", str(runs["ngram"]), "-m", str(runs["bidirectional"]))
    found = printed(charrnn, "sample", "--ensemble", *models, *HALF, "--infill", "the qu_ck brown")
    assert found == "the quick brown\n"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("sample", "-m", "a", "-m", "b"), "mix them with --ensemble"),
        (("sample", "--ensemble", "-m", "a"), "--ensemble mixes several models"),
        (("evaluate", "--ensemble"), "--ensemble mixes several models"),
        (("evaluate", "-m", "a", "--weights", "1"), "--weights are those of --ensemble"),
        (("sample", "-m", "a", "--weights", "1"), "--weights are those of --ensemble"),
        (("evaluate", "--ensemble", "-m", "a", "-m", "b", "--weights", "1"), "has 1 number for 2 models"),
        (("evaluate", "--ensemble", "-m", "a", "-m", "b", "--weights", "1,x"), "numbers with commas between"),
        (("evaluate", "--ensemble", "-m", "a", "-m", "b", "--dynamic"), "--dynamic trains one network"),
        (("evaluate", "--ensemble", "-m", "a", "-m", "b", "--exact"), "--ensemble is always exact"),
        (("sample", "--ensemble", "-m", "a", "-m", "b", "--adapt", "text.txt"), "--adapt changes the weights of one"),
    ],
)
def test_misuse_is_told_before_a_model_is_looked_for(
    arguments: tuple[str, ...], sentence: str, charrnn: Charrnn, here: Path
) -> None:
    result = charrnn(*arguments)
    assert_sentence(result, 2)
    assert sentence in result.stderr


def test_models_of_other_characters_cannot_be_mixed(runs: dict[str, Path], here: Path, charrnn: Charrnn) -> None:
    Path("other.txt").write_text(TEXT.replace("q", "Q"), encoding="utf-8")
    printed(charrnn, "train", "other.txt", "-q", "-o", "other", "-s", "model.cell=ngram", "--seed", "1")
    result = charrnn("sample", "--ensemble", "-m", "other", "-m", str(runs["ngram"]))
    assert_sentence(result, 2)
    assert "their characters differ by 2, and only other knows 'Q'. Train both on the same text." in result.stderr


def test_what_is_not_to_be_copied_is_the_training_text_of_all(
    runs: dict[str, Path], here: Path, charrnn: Charrnn
) -> None:
    first, second = "abcdefghij" * 30 + "\n", "jihgfedcba" * 30 + "\n"
    for name, text in (("first", first), ("second", second)):
        Path(f"{name}.txt").write_text(text, encoding="utf-8")
        printed(charrnn, "train", f"{name}.txt", "-q", "-o", name, "-s", "model.cell=ngram", "--seed", "1")
    drawn = ("sample", "--ensemble", "-m", "first", "-m", "second", *HALF, "-n", "60", "--no-copy", "3", "--seed", "1")
    made = printed(charrnn, *drawn, "--no-prime").rstrip("\n")
    assert len(made) > 10
    runs_of_three = {made[at : at + 3] for at in range(len(made) - 2)}
    assert not any(run in first or run in second for run in runs_of_three)


def test_an_ensemble_in_python_does_what_a_model_does(
    runs: dict[str, Path], both: list[str], ensemble: package.Ensemble, charrnn: Charrnn
) -> None:
    assert ensemble.weights == (0.5, 0.5)
    assert ensemble.sample("the ", 20, seed=1) == printed(
        charrnn, "sample", *both, *HALF, "-p", "the ", "-n", "20", "--seed", "1", "--no-prime"
    ).removesuffix("\n")
    assert "".join(ensemble.stream("the ", 20, seed=1)) == ensemble.sample("the ", 20, seed=1)
    close(ensemble.bits("the fox").sum(), ensemble.score("the fox").bits)
    parts = [2 ** -model.bits("the fox") for model in ensemble.models]
    close(2 ** -ensemble.bits("the fox"), (parts[0] + parts[1]) / 2, 1e-6)
    assert len(ensemble.search("the ", 5, width=3)) == 3
    assert ensemble.sample("the ", 20, seed=1, no_copy=12)
    assert "0.500 <charrnn.TextModel: 2 x 5 lstm" in repr(ensemble)


def test_an_ensemble_in_python_chooses_its_weights_or_takes_equal_ones(runs: dict[str, Path], tmp_path: Path) -> None:
    chosen = package.ensemble([package.load(runs["causal"]), runs["ngram"]]).weights
    assert chosen != (0.5, 0.5)
    close(sum(chosen), 1.0)
    other = tmp_path / "other"
    shutil.copytree(runs["causal"], other)
    assert package.ensemble([other, runs["ngram"]]).weights == chosen


def test_an_ensemble_in_python_refuses_with_a_sentence(ensemble: package.Ensemble) -> None:
    for call in (lambda: ensemble.states("a"), ensemble.torch_module, lambda: package.ensemble(ensemble.models[:1])):
        with pytest.raises(MisuseError, match="ensemble"):
            call()
    with pytest.raises(MisuseError, match="weights has 3 numbers for 2 models"):
        package.ensemble(ensemble.models, [1, 1, 1])


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"models": "causal"}, "models is 'causal'; it must be a list"),
        ({"models": 5}, "models is 5; it must be a list"),
        ({"models": ["causal", 5]}, "models is 5; it must be a path"),
        ({"weights": "1,1"}, "weights is '1,1'; it must be a list"),
        ({"weights": 1}, "weights is 1; it must be a list"),
        ({"weights": ["1", "1"]}, "weights is '1'; it must be a number"),
        ({"weights": [1, None]}, "weights is None; it must be a number"),
    ],
)
def test_an_ensemble_in_python_says_what_its_arguments_must_be(
    given: dict[str, Any], sentence: str, ensemble: package.Ensemble
) -> None:
    with pytest.raises(MisuseError, match=re.escape(sentence)):
        package.ensemble(**{"models": ensemble.models, **given})
