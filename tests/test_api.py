"""The Python interface gives the same results as the commands."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import charrnn as package
from charrnn import CharRNNError, MisuseError, TextModel
from charrnn.api import SamplingOptions
from tests.conftest import TEXT, Charrnn, close, count_characters


def test_a_loaded_model_generates_the_text_of_the_command(trained: Path, charrnn: Charrnn) -> None:
    model = package.load(trained)
    printed = charrnn("sample", "-m", "text", "-p", "the fox", "-n", "30", "--seed", "5", "--no-prime").stdout
    text = model.sample("the fox", 30, seed=5)
    assert printed.removesuffix("\n") == text.removesuffix("\n")
    assert "".join(model.stream("the fox", 30, seed=5)) == text


def test_a_loaded_model_stops_at_the_first_of_several_texts(trained: Path) -> None:
    model = package.load(trained)
    text = model.sample("the fox", 30, seed=5)
    stops = [text[20:22], text[9:11]]
    end = min(text.index(stop) for stop in stops)
    assert model.sample("the fox", 30, seed=5, until=stops) == text[:end]
    assert model.sample("the fox", 30, seed=5, until=stops, keep_until=True) == text[: end + 2]
    best = model.search("the fox", 9, width=2)[0].text
    kept = model.search("the fox", 9, width=1, until=[best[4:6], "鸟"], keep_until=True)[0]
    assert kept.ended_by == "until"
    assert kept.text.endswith(best[4:6])


def test_a_loaded_model_avoids_copies_and_repeats_as_the_command_does(trained: Path, charrnn: Charrnn) -> None:
    model = package.load(trained)
    for option, size in (("no_copy", 3), ("no_repeat", 2)):
        arguments = ["-n", "60", "--seed", "5", f"--{option.replace('_', '-')}", str(size), "--no-prime"]
        printed = charrnn("sample", "-m", "text", "-p", "the fox", *arguments).stdout
        constraint: dict[str, Any] = {option: size}
        text = model.sample("the fox", 60, seed=5, **constraint)
        assert printed.removesuffix("\n") == text.removesuffix("\n")
        assert "".join(model.stream("the fox", 60, seed=5, **constraint)) == text != model.sample("the fox", 60, seed=5)
    text = "the fox" + model.sample("the fox", 60, seed=5, no_copy=3)
    assert not any(text[start : start + 3] in TEXT for start in range(5, len(text) - 2))
    Path("text.txt").unlink()
    with pytest.raises(MisuseError, match="no_copy is 1"):
        package.load(trained).sample(no_copy=1)
    with pytest.raises(CharRNNError, match=r"text.txt: .* gone\. Put it back, or leave out no_copy"):
        package.load(trained).sample(no_copy=3)


def test_a_loaded_model_scores_as_the_command_does(trained: Path, charrnn: Charrnn) -> None:
    score = package.load(str(trained / "best.safetensors")).score(TEXT)
    printed = json.loads(charrnn("evaluate", "text.txt", "--exact", "--json").stdout)
    assert score.characters == printed["characters"]
    assert score.nats == pytest.approx(printed["nats"], rel=1e-5)


def test_the_newest_run_is_loaded_by_default(trained: Path) -> None:
    model = package.load()
    assert model.path == Path("checkpoints/text/best.safetensors")
    assert "\n" in model.characters


def test_a_loaded_model_searches_as_the_command_does(either: str, charrnn: Charrnn) -> None:
    found = package.load(either).search("the ", 1, width=30, until="o")
    common = ["sample", "-m", either, "-p", "the ", "-n", "1", "--until", "o", "--json"]
    printed = [json.loads(line) for line in charrnn(*common, "--beam", "30", "-k", "30").stdout.splitlines()]
    assert [(sample.prime, sample.text, sample.bits_per_character, sample.seed, sample.index) for sample in found] == [
        (line["prime"], line["text"], line["bits_per_character"], None, line["index"]) for line in printed
    ]
    assert sum(sample.text == "" for sample in found) == 1  # o at once


def test_the_score_of_a_search_result_equals_that_of_score(either: str) -> None:
    model = package.load(either)
    (best,) = model.search("the ", 20, width=1)
    assert best.nats == pytest.approx(model.score("the " + best.text).nats - model.score("the ").nats, rel=1e-4)


def test_a_loaded_model_fills_gaps_as_the_command_does(either: str, charrnn: Charrnn) -> None:
    found = package.load(either).infill("th? ??x_", 3, blanks="?", width=9)
    result = charrnn("sample", "-m", either, "--infill", "th? ??x_", "-k", "3", "--blank", "?", "--beam", "9", "--json")
    printed = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(filling.text, list(filling.gaps), filling.bits_per_character, filling.index) for filling in found] == [
        (line["text"], line["gaps"], line["bits_per_character"], line["index"]) for line in printed
    ]
    assert len(package.load(either).infill("我爱＿_，")) == 1


def test_several_samples_are_those_of_the_command(trained: Path, charrnn: Charrnn) -> None:
    model = TextModel(trained)
    printed = charrnn("sample", "-m", "text", "-p", "the fox", "-n", "30", "--seed", "5", "-k", "3", "--json").stdout
    texts = model.sample("the fox", 30, num=3, seed=5)
    assert texts == [json.loads(line)["text"] for line in printed.splitlines()]
    assert texts[:1] == model.sample("the fox", 30, num=1, seed=5) == [model.sample("the fox", 30, seed=5)]
    steps = list(model.stream("the fox", 30, num=3, seed=5))
    assert ["".join(added) for added in zip(*steps, strict=True)] == texts


def test_more_samples_than_a_batch_are_drawn_in_several(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = TextModel(trained)
    texts = model.sample("the", 9, num=5, seed=1)
    monkeypatch.setattr("charrnn.api._BATCH", 2)
    assert model.sample("the", 9, num=5, seed=1) == texts


def test_the_prime_of_many_samples_is_read_once(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was once read again for each batch."""
    monkeypatch.setattr("charrnn.api._BATCH", 2)
    model, read = TextModel(trained), [0]
    count_characters(model._model, read, monkeypatch)
    assert len(model.sample("the quick brown fox", 3, num=5)) == 5
    assert read[0] == len("\nthe quick brown fox") + 5 * 2  # the first character of a sample needs no step


def test_stream_takes_every_keyword_of_sample(trained: Path) -> None:
    keywords = dict(inspect.signature(TextModel.sample).parameters)
    assert inspect.signature(TextModel.stream).parameters == keywords
    assert keywords.keys() - {"self", "prime", "length", "num"} == SamplingOptions.__annotations__.keys()
    model = TextModel(trained)
    every: list[SamplingOptions] = [
        {"seed": 1, "temperature": 0.5, "top_k": 3},
        {"seed": 1, "top_p": 0.5, "min_p": None},
        {"seed": 1, "greedy": True},
        {"seed": 1, "until": "o", "no_repeat": 4},
        {"seed": 1, "no_copy": 2},
    ]
    drawn = {model.sample("the", 40, seed=1)}
    for options in every:
        text = model.sample("the", 40, **options)
        assert "".join(model.stream("the", 40, **options)) == text
        drawn.add(text)
    assert len(drawn) == len(every) + 1  # each changes the text


def test_a_model_says_what_it_is(runs: dict[str, Path], here: Path, charrnn: Charrnn) -> None:
    kinds = {"causal": "2 x 5 lstm", "bidirectional": "2 x 5 lstm, bidirectional", "ngram": "ngram of order "}
    for name, kind in kinds.items():
        shown = repr(package.load(runs[name]))
        assert shown.startswith(f"<charrnn.TextModel: {kind}")
        assert shown.endswith(f", {len(set(TEXT))} characters, {runs[name] / 'best.safetensors'}>")
    assert repr(hidden_markov(here)).startswith("<charrnn.TextModel: hmm of 3 states")


def hidden_markov(here: Path) -> TextModel:
    """Train a tiny hidden Markov model."""
    sizes: dict[str, Any] = {"hidden_size": 3, "batch_size": 3, "sequence_length": 7, "learning_rate": 0.1}
    return package.train("text.txt", cell="hmm", steps=20, eval_every=9, seed=1, **sizes).model()


def test_the_bits_of_characters_add_up_to_the_score(runs: dict[str, Path], charrnn: Charrnn, here: Path) -> None:
    (here / "line.txt").write_text("the fax 鸟\n", encoding="utf-8")
    for folder in runs.values():
        model = TextModel(folder)
        bits = model.bits("the fax 鸟\n")
        printed = charrnn("evaluate", "-m", str(folder), "--per-char", "line.txt").stdout.splitlines()
        close(bits, np.array([float(line.split("\t")[1]) for line in printed]), 1e-4)  # of torch, to four decimals
        assert bits.sum() == pytest.approx(model.score("the fax 鸟\n").bits)
        assert model.bits("").shape == (0,)


def test_states_are_those_of_the_torch_module(runs: dict[str, Path], here: Path) -> None:
    for model in (package.load(runs["causal"]), package.load(runs["bidirectional"]), hidden_markov(here)):
        module, tokens = model.torch_module(), torch.from_numpy(model.encode("\nthe 鸟"))[None]
        assert isinstance(module, torch.nn.Module)
        assert not module.training
        logits, state = module(tokens, module.initial_state(1))
        assert logits.shape == (1, 6, len(model.characters))
        found = model.states("the 鸟")
        last = state.hidden[:, 0].detach().numpy()
        close(found.hidden[-1], np.exp(last) if state.cell is None else last, 1e-5)
        if state.cell is not None:
            assert found.cell is not None
            close(found.cell[-1], state.cell[:, 0].detach().numpy(), 1e-5)
        assert model.states("").hidden.shape == (0, *found.hidden.shape[1:])


def test_states_have_a_row_for_each_character(runs: dict[str, Path], here: Path) -> None:
    model = package.load(runs["causal"])
    found = model.states("the fox")
    assert found.cell is not None
    assert found.hidden.shape == found.cell.shape == (7, 2, 5)
    assert found.backward is None
    close(found.hidden[:3], model.states("the").hidden)
    probabilities = hidden_markov(here).states("the fox")
    assert probabilities.hidden.shape == (7, 1, 3)
    assert probabilities.cell is None
    close(probabilities.hidden.sum(-1), np.ones((7, 1)), 1e-6)


def test_a_bidirectional_model_has_states_from_the_end_as_well(runs: dict[str, Path]) -> None:
    model = package.load(runs["bidirectional"])
    backward = model.states("a fox").backward
    assert backward is not None
    assert backward.cell is not None
    assert backward.hidden.shape == (5, 2, 5)
    shorter = model.states("fox").backward
    assert shorter is not None
    close(backward.hidden[2:], shorter.hidden)


def test_an_n_gram_model_has_neither_states_nor_a_torch_module(runs: dict[str, Path]) -> None:
    model = package.load(runs["ngram"])
    with pytest.raises(MisuseError, match="is an n-gram model and has no states"):
        model.states("the")
    with pytest.raises(MisuseError, match="is an n-gram model and has no torch module"):
        model.torch_module()


SAMPLE_MISTAKES: dict[str, Any] = {
    "prime is 5; it must be a str": {"prime": 5},
    "prime is b'the'; it must be a str": {"prime": b"the"},
    "length is 2.5; it must be a whole number of at least 1": {"length": 2.5},
    "length is True": {"length": True},
    "length is -1": {"length": -1},
    "length is '9'": {"length": "9"},
    "length is nan": {"length": float("nan")},
    "num is 0; it must be a whole number": {"num": 0},
    "num is 2.0": {"num": 2.0},
    "seed is -1; it must be a whole number from 0 to 9223372036854775807": {"seed": -1},
    "seed is 9223372036854775808": {"seed": 2**63},
    "seed is 1.5": {"seed": 1.5},
    "temperature is 0; it must be above 0": {"temperature": 0.0},
    "temperature is nan; it must be above 0": {"temperature": float("nan")},
    "temperature is None; it must be a number": {"temperature": None},
    "temperature is '1'": {"temperature": "1"},
    "temperature is 1000.*000; it must be a number that a float can hold": {"temperature": 10**400},
    "temperature is -1000.*000; it must be a number that a float can hold": {"temperature": -(10**400)},
    "top_p is 1000.*000; it must be a number that a float can hold": {"top_p": 10**400},
    "top_p is .*; it must be a number that a float can hold": {"top_p": 10**5000},
    "seed is .*; it must be a whole number from 0 to 9223372036854775807": {"seed": 10**5000},
    "length is .*; it must be a whole number of at least 1": {"length": -(10**5000)},
    "prime is .*; it must be a str": {"prime": 10**5000},
    "until is .*; it must be a str": {"until": [10**5000]},
    "greedy is .*; it must be True or False": {"greedy": 10**5000},
    "temperature is True": {"temperature": True},
    "top_k is 0; it must be a whole number of at least 1": {"top_k": 0},
    "top_k is 2.5": {"top_k": 2.5},
    "top_p is 0; it must be above 0 and at most 1": {"top_p": 0.0},
    "top_p is nan": {"top_p": float("nan")},
    "min_p is 1.5; it must lie between 0 and 1": {"min_p": 1.5},
    "min_p is '0.1'": {"min_p": "0.1"},
    "greedy is 'no'; it must be True or False": {"greedy": "no"},
    "greedy takes the likeliest character; leave out temperature": {"greedy": True, "temperature": 0.5},
    "until is empty": {"until": ""},
    "until is 5; it must be a str": {"until": 5},
    "no_copy is 1; it must be a whole number of at least 2": {"no_copy": 1},
    "no_copy is 9.5": {"no_copy": 9.5},
    "no_repeat is 1": {"no_repeat": 1},
    "no_repeat is False": {"no_repeat": False},
}


@pytest.mark.parametrize("message", SAMPLE_MISTAKES)
def test_a_mistake_in_an_argument_is_told_at_once(message: str, runs: dict[str, Path]) -> None:
    model: Any = package.load(runs["causal"])
    for method in (model.sample, model.stream):  # a stream checks before its first text is asked for
        with pytest.raises(MisuseError, match=f"^{message}"):
            method(**SAMPLE_MISTAKES[message])


def test_more_texts_than_memory_holds_are_not_streamed_side_by_side(runs: dict[str, Path]) -> None:
    model = package.load(runs["causal"])
    with pytest.raises(MisuseError, match="num is 257; it must be a whole number from 1 to 256"):
        model.stream(num=257)
    assert len(next(model.stream(num=256, length=1))) == 256
    assert len(model.sample(num=257, length=1)) == 257


def test_a_run_longer_than_any_text_forbids_nothing(trained: Path) -> None:
    model = package.load(trained)
    text = model.sample("the", 9, seed=1)
    assert model.sample("the", 9, seed=1, no_copy=10**5000, no_repeat=10**5000, top_k=10**5000) == text


def test_mistakes_are_charrnn_errors(runs: dict[str, Path], here: Path) -> None:
    model: Any = package.load(runs["causal"])
    with pytest.raises(CharRNNError, match="no such model"):
        package.load("nowhere")
    with pytest.raises(MisuseError, match="the model is 5; it must be a path"):
        package.load(5)  # type: ignore[arg-type]
    for call in (model.sample, model.search, model.score, model.bits, model.states, model.encode, model.infill):
        with pytest.raises(CharRNNError, match="lone surrogate"):
            call("a_\ud800")
        with pytest.raises(MisuseError, match="is None; it must be a str"):
            call(None)
    with pytest.raises(CharRNNError, match="until: character 1 is a lone surrogate"):
        model.search("a", until="b\ud800")
    for message, call in {
        "no gap": lambda: model.infill("no gap"),
        "num is 0": lambda: model.infill("a_", 0),
        "num is 1.5": lambda: model.infill("a_", 1.5),
        "blanks is empty": lambda: model.infill("a_", blanks=""),
        "width is 0": lambda: model.infill("a_", width=0),
        "width is 2.5": lambda: model.search(width=2.5),
        "width is -1": lambda: model.search(width=-1),
        "length is 0": lambda: model.search(length=0),
        "until is empty": lambda: model.search(until=""),
    }.items():
        with pytest.raises(MisuseError, match=message):
            call()


def test_numbers_of_numpy_are_numbers(runs: dict[str, Path]) -> None:
    model: Any = package.load(runs["causal"])
    given = {"temperature": np.float32(0.5), "top_k": np.int64(4), "seed": np.uint8(3)}
    assert model.sample("the", np.int32(9), **given) == model.sample("the", 9, temperature=0.5, top_k=4, seed=3)


def test_every_public_name_is_there_when_it_is_asked_for() -> None:
    assert set(package.__all__) <= set(dir(package))
    assert all(getattr(package, name) is not None for name in package.__all__)
    assert not hasattr(package, "nonsense")
