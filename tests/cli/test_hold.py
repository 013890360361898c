"""sample --hold: text is written under a held unit, in every way in which it is written."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from charrnn.checkpoints import inference
from charrnn.generation.primes import ReadPrimes
from charrnn.models.held_units import Hold, hold
from charrnn.models.numpy_model import State
from tests.cli.test_ensemble import printed
from tests.cli.test_main import assert_sentence
from tests.conftest import Charrnn
from tests.mixture_files import write_mixture

HELD = ("--hold", "1:3=4", "--hold", "0:2=-4")


def test_the_text_changes_with_the_value_and_a_prime_is_read_as_ever(either: str, charrnn: Charrnn) -> None:
    common = ("sample", "-m", either, "-p", "the ", "-n", "30", "--greedy")
    texts = {printed(charrnn, *common, *(["--hold", f"0:2={value}"] if value else [])) for value in ("", "-9", "9")}
    assert len(texts) == 3
    model, vocabulary = inference.load(Path(either) / "best.safetensors", network_only=True)
    held = hold(model, [Hold(0, 2, 9.0)], "--hold")
    free, read = (ReadPrimes(each, vocabulary, ["the ", "a", ""]) for each in (model, held))
    assert isinstance(free.before, State)
    assert isinstance(read.before, State)
    assert isinstance(read.state, State)
    for one, other in zip(free.before.layers, read.before.layers, strict=True):
        assert (one.hidden == other.hidden).all()
    cell = read.state.layers[0].cell
    assert cell is not None
    assert (cell[:, 2] == 9.0).all()


@pytest.mark.parametrize("prime", ["", "the "])
def test_a_beam_of_one_writes_what_greedy_sampling_does(prime: str, either: str, charrnn: Charrnn) -> None:
    common = ("sample", "-m", either, "-p", prime, "-n", "30", *HELD)
    assert printed(charrnn, *common, "--beam", "1") == printed(charrnn, *common, "--greedy")


def test_the_first_of_several_samples_is_the_only_one(either: str, charrnn: Charrnn) -> None:
    common = ("sample", "-m", either, "-p", "the ", "-n", "30", "--seed", "1", *HELD)
    assert printed(charrnn, *common, "-k", "3").startswith(printed(charrnn, *common))
    lines = printed(charrnn, *common[:3], "-n", "30", "--seed", "1", *HELD, "--each-line", stdin="the \nfox\nthe \n")
    assert len(lines.splitlines()) == 3


@pytest.mark.parametrize(
    "more", [("--pattern", "[a-m ]{9}"), ("--no-repeat", "2"), ("--beam", "3"), ("--json",), ("--until", "o")], ids=str
)
def test_it_goes_with_what_else_shapes_a_text(more: tuple[str, ...], either: str, charrnn: Charrnn) -> None:
    seed = () if "--beam" in more else ("--seed", "1")
    held = printed(charrnn, "sample", "-m", either, "-n", "30", *seed, *HELD, *more)
    assert held != printed(charrnn, "sample", "-m", either, "-n", "30", *seed, *more)


def test_of_a_mixture_the_network_is_held(runs: dict[str, Path], here: Path, charrnn: Charrnn) -> None:
    shutil.copytree(runs["causal"], "mixed")
    network, counts, target = (folder / "best.safetensors" for folder in (runs["causal"], runs["ngram"], Path("mixed")))
    write_mixture(network, counts, target)
    common = ("-n", "30", "--greedy", *HELD)
    alone = printed(charrnn, "sample", "-m", str(runs["causal"]), *common)
    assert printed(charrnn, "sample", "-m", "mixed", *common) == alone
    assert printed(charrnn, "sample", "-m", "mixed", *common, "--mixture") != alone
    assert printed(charrnn, "sample", "-m", "mixed", "--beam", "2", "-n", "9", *HELD)


def test_mistakes_are_sentences(runs: dict[str, Path], here: Path, charrnn: Charrnn) -> None:
    causal, ngram = str(runs["causal"]), str(runs["ngram"])
    for model, arguments, words in (
        (causal, ["--hold", "12=1"], "--hold is 12=1; it must be LAYER:UNIT=VALUE"),
        (causal, ["--hold", "2:0=1"], "this model has 2 layers, counted from 0 to 1"),
        (causal, ["--hold", "0:5=1"], "each layer has 5 units, counted from 0 to 4"),
        (causal, ["--hold", "0:5=1", "--adapt", "text.txt"], "each layer has 5 units"),
        (causal, ["--hold", "0:1=1", "--device", "cuda"], "--hold writes on the CPU"),
        (causal, ["--hold", "0:1=1", "--infill", "th_"], "leave out --hold"),
        (causal, ["--hold", "0:1=1", "--ensemble", "-m", ngram], "leave out --hold"),
        (ngram, ["--hold", "0:1=1"], "this model is none, and has no units"),
    ):
        Path("text.txt").write_text("the quick brown fox", encoding="utf-8")
        assert_sentence(charrnn("sample", "-m", model, *arguments), 2, words)
