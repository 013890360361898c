"""Claims about the model that a fine-tuned run starts from: named in its settings, used, or its absence told."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from charrnn.checkpoints import base_model, model_file
from charrnn.config import loading
from charrnn.errors import CharRNNError
from charrnn.training import new_run
from tests.conftest import TINY, Charrnn, settings

HOW = [word for setting in TINY if setting.startswith(("train.", "model.mixture")) for word in ("-s", setting)]


@pytest.fixture
def fine(trained: Path, charrnn: Charrnn) -> Path:
    """Fine-tune checkpoints/text into checkpoints/fine, with distillation; gives its config.yaml."""
    (trained.parent.parent / "fine.txt").write_text("the fox 鸟 sat at the oats\n" * 40, encoding="utf-8")
    given = [*HOW, "-s", "train.steps=6", "-s", "train.distillation=0.3"]
    result = charrnn("train", "fine.txt", "--init-from", "text", *given)
    assert result.exit_code == 0, result.output
    return trained.parent / "fine" / "config.yaml"


def weights(run: Path) -> dict[str, torch.Tensor]:
    return model_file.read(run / "best.safetensors")[1]


def same(one: Path, other: Path) -> bool:
    first, second = weights(one), weights(other)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("distillation", ["0", "0.3"])
def test_the_configuration_of_a_fine_tuned_run_repeats_it(fine: Path, charrnn: Charrnn, distillation: str) -> None:
    """Without distillation it once trained from scratch and said nothing; with it, it asked for --init-from."""
    how = ("-c", str(fine), "-s", f"train.distillation={distillation}")
    for run in ("one", "two"):
        named = ("--init-from", "text") if run == "one" else ()
        result = charrnn("train", *how, *named, "-o", run)
        assert result.exit_code == 0, result.output
        assert "text/best.safetensors and its" in " ".join(result.stderr.split())
    assert same(Path("one"), Path("two"))
    assert same(Path("one"), fine.parent) == (distillation == "0.3")
    job = new_run.start(loading.load("one/config.yaml"), Path("three"), torch.device("cpu"))
    job.run.release()
    assert job.training.history == []
    base, started = weights(fine.parent.parent / "text"), job.training.model.state_dict()
    recurrent = [name for name in base if "weight_hh" in name]
    assert recurrent
    assert all(torch.equal(started[name], base[name]) for name in recurrent)


def test_a_missing_base_model_is_told_with_what_to_do(fine: Path, charrnn: Charrnn) -> None:
    shutil.move(fine.parent.parent / "text", "moved")
    result = charrnn("train", "-c", str(fine))
    assert result.exit_code == 1
    said = " ".join(result.stderr.split())
    assert "checkpoints/text/best.safetensors: the model to start from (train.init_from) is not there." in said
    assert "with --init-from; or train from scratch with -s train.init_from=null -s train.distillation=0" in said
    assert "sha256" not in said
    assert charrnn("train", "-c", str(fine), "--init-from", "moved", "-o", "again", "-q").exit_code == 0
    assert same(Path("again"), fine.parent)
    null = ("-s", "train.init_from=null", "-s", "train.distillation=0")
    assert charrnn("train", "-c", str(fine), *null, "-o", "scratch", "-q").exit_code == 0
    header = model_file.read_header(Path("scratch/best.safetensors"))
    assert (header.config.train.init_from, header.history[0].step) == (None, 5)
    with pytest.raises(CharRNNError, match="is not there"):
        new_run.start(loading.load(str(fine)), Path("none"), torch.device("cpu"))
    assert not Path("none").exists()


def test_a_base_model_that_has_changed_is_told_even_when_quiet(fine: Path, charrnn: Charrnn) -> None:
    again = charrnn("train", "-c", str(fine), "-o", "same", "-q")
    assert (again.exit_code, again.stderr) == (0, "")
    charrnn("train", "--resume", "-m", "text", "-q", "-s", "train.steps=30", "-s", "train.learning_rate=0.05")
    changed = charrnn("train", "-c", str(fine), "-o", "other", "-q")
    assert changed.exit_code == 0
    assert "text/best.safetensors has changed since these settings were written" in " ".join(changed.stderr.split())
    assert charrnn("train", "-c", "other/config.yaml", "-o", "third", "-q").stderr == ""


def test_init_from_as_a_setting_is_a_name_as_the_option_takes_it(fine: Path, charrnn: Charrnn) -> None:
    given = [*HOW, "-s", "train.steps=6", "-s", "train.distillation=0.3", "-s", "train.init_from=text"]
    assert charrnn("train", "fine.txt", *given, "-o", "named", "-q").exit_code == 0
    assert same(Path("named"), fine.parent)
    nowhere = charrnn("train", "fine.txt", "-s", "train.init_from=nowhere")
    assert (nowhere.exit_code, "nowhere: the model to start from" in nowhere.stderr) == (1, True)
    other = charrnn("train", "fine.txt", "-s", "train.init_from=text", "-s", "model.hidden_size=6")
    assert (other.exit_code, "leave out model.hidden_size=6" in " ".join(other.stderr.split())) == (2, True)


def test_the_option_wins_over_the_setting(fine: Path, charrnn: Charrnn) -> None:
    assert charrnn("train", "text.txt", "-o", "second", "-q", *settings("train.steps=3", "train.seed=9")).exit_code == 0
    assert charrnn("train", "-c", str(fine), "--init-from", "second", "-o", "run", "-q").exit_code == 0
    config = model_file.read_header(Path("run/last.safetensors")).config
    assert base_model.name(config) == str(Path("second/best.safetensors").absolute())
    assert not same(Path("run"), fine.parent)


def test_resuming_needs_no_base_model_and_keeps_the_one_it_had(fine: Path, charrnn: Charrnn) -> None:
    shutil.rmtree(fine.parent.parent / "text")
    result = charrnn("train", "--resume", "-m", "fine", "-s", "train.steps=8")
    assert result.exit_code == 0, result.output
    assert base_model.name(loading.load(str(fine))) == str(fine.parent.parent / "text" / "best.safetensors")
    refused = charrnn("train", "--resume", "-m", "fine", "-s", "train.init_from=null", "-s", "train.steps=9")
    assert refused.exit_code == 2
    assert "train.init_from=null cannot be changed on resume" in " ".join(refused.stderr.split())


def test_a_model_says_what_it_started_from(fine: Path, charrnn: Charrnn) -> None:
    """The one it was fine-tuned from, not that one's own."""
    assert charrnn("train", "text.txt", "--init-from", "fine", *HOW, "-s", "train.steps=2", "-o", "next").exit_code == 0
    for run, base in (("fine", "text"), ("next", "fine"), ("text", None)):
        path = None if base is None else os.path.join(fine.parent.parent, base, "best.safetensors")
        assert json.loads(charrnn("info", "-m", run, "--json").stdout)["init_from"] == path
        page = charrnn("info", "-m", run).stdout
        assert ("started from" in page) == (path is not None)
        assert path is None or path in "".join(line.strip() for line in page.splitlines())


def test_a_path_may_look_like_anything(tmp_path: Path) -> None:
    for name in ("a#b.safetensors", "x#sha256=12.safetensors", "诗 词.safetensors"):
        (tmp_path / name).write_bytes(b"weights")
        reference = base_model.reference(tmp_path / name)
        config = loading.load(None, [f"train.init_from={reference}"])
        assert base_model.name(config) == str(tmp_path / name)
        said: list[str] = []
        assert base_model.find(config, said.append) == tmp_path / name
        assert not said
        (tmp_path / name).write_bytes(b"others")
        base_model.find(config, said.append)
        assert len(said) == 1
