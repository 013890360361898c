"""Claims about beginning, resuming and fine-tuning."""

from __future__ import annotations

import errno
import io
import json
import math
import os
import random
import re
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch

from charrnn import device, scores
from charrnn.checkpoints import model_file, training_corpus
from charrnn.checkpoints.run_dir import Run
from charrnn.cli import model_page, summary
from charrnn.config import loading, schema
from charrnn.data import spool, token_cache
from charrnn.data.corpus import Corpus
from charrnn.device import Bf16
from charrnn.errors import CharRNNError, MisuseError
from charrnn.evaluation import baselines, cloze, scoring
from charrnn.generation.filters import Filters
from charrnn.generation.sampling import Sampler
from charrnn.models.bidirectional import BidirectionalRNN
from charrnn.models.char_rnn import BY_CHARACTER, CharRNN
from charrnn.models.torch_model import TorchModel
from charrnn.training import auto_config, events, fine_tuning, loop, new_run, resume, trainer
from charrnn.training.job import TrainingJob
from tests.conftest import TEXT, TINY

CPU = torch.device("cpu")


def finish(job: TrainingJob[trainer.Training]) -> TrainingJob[trainer.Training]:
    for _ in loop.train(job.training, job.run):
        pass
    job.run.release()
    return job


def fresh(texts: list[str], *settings: str, folder: str = "run", **options: object) -> TrainingJob[trainer.Training]:
    chosen = loading.load(None, [*TINY, "train.steps=6", *settings]).with_values(data={"texts": texts})
    return new_run.start(chosen, Path(folder), CPU, **options)  # type: ignore[arg-type]


def test_a_run_keeps_a_copy_of_standard_input_and_resumes_from_it_elsewhere(here: Path) -> None:
    job = finish(fresh(["-"], stdin=io.BytesIO(TEXT.encode())))
    assert (here / "run" / "corpus.txt").read_text() == TEXT
    assert job.training.config.data.texts == [str(here / "run" / "corpus.txt")]
    (here / "run").rename(here / "moved")
    resumed = resume.resume(Run(Path("moved")), CPU, settings=["train.steps=8"])
    assert finish(resumed).training.position.step == 8


def test_the_copy_of_standard_input_holds_it_alone_and_in_the_texts_encoding(here: Path) -> None:
    (here / "other.txt").write_text("另一篇" * 50, encoding="gb18030")
    finish(fresh(["other.txt", "-"], "data.encoding=gb18030", stdin=io.BytesIO(("我爱北京\n" * 30).encode("gb18030"))))
    assert (here / "run" / "corpus.txt").read_text(encoding="gb18030") == "我爱北京\n" * 30
    assert finish(resume.resume(Run(Path("run")), CPU)).training.position.step == 6


def test_a_text_that_changed_is_not_resumed(here: Path) -> None:
    finish(fresh(["text.txt"]))
    (here / "text.txt").write_text(TEXT + "more")
    with pytest.raises(CharRNNError, match=r"has changed since .*--init-from"):
        resume.resume(Run(Path("run")), CPU)


@pytest.mark.bf16
@pytest.mark.parametrize(
    ("fast", "settings", "told"), [(True, [], 0), (False, [], 1), (False, ["train.precision=fp32"], 0)]
)
def test_a_run_in_bf16_goes_on_where_that_is_slow_and_says_so(
    here: Path, fast: bool, settings: list[str], told: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a CPU without a kernel for it as well, on charrnn's own."""
    finish(fresh(["text.txt"], "train.precision=bf16", "train.kernel=torch"))
    monkeypatch.setattr(resume, "bf16_on", lambda device: Bf16(fast=fast, lstm=False))
    said: list[str] = []
    resumed = resume.resume(Run(Path("run")), CPU, settings=["train.steps=8", *settings], say=said.append)
    assert finish(resumed).training.position.step == 8
    assert said.count("bf16 is slow on cpu: -s train.precision=fp32 takes less time, and loses nothing.") == told


def test_a_text_that_is_gone_may_be_named_where_it_is_now(here: Path) -> None:
    finish(fresh(["text.txt"]))
    (here / "text.txt").rename(here / "else.txt")
    with pytest.raises(CharRNNError, match=r"is gone\. Name where it is now: charrnn train TEXT --resume"):
        resume.resume(Run(Path("run")), CPU)
    assert finish(resume.resume(Run(Path("run")), CPU, texts=["else.txt"])).training.position.step == 6


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("model.hidden_size=9", r"model\.hidden_size=9 cannot be changed on resume \(it is 5\)"),
        ("data.min_count=2", r"data\.min_count=2 cannot be changed"),
        ("train.batch_size=2", r"train\.batch_size=2 cannot be changed"),
        ("train.seed=5", r"train\.seed=5 cannot be changed"),
        ("train.epochs=auto", r"train\.epochs=auto was settled when the run began"),
        ("train.learning_rate=auto", r"train\.learning_rate=auto was settled"),
        ("train.weight_decay=auto", r"train\.weight_decay=auto was settled"),
    ],
)
def test_what_a_run_is_tied_to_cannot_be_changed(here: Path, setting: str, message: str) -> None:
    finish(fresh(["text.txt"]))
    with pytest.raises(MisuseError, match=message):
        resume.resume(Run(Path("run")), CPU, settings=[setting])


# Long texts, whose tokens are in a file of the run


@pytest.fixture
def long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every text be a long one."""
    monkeypatch.setattr(token_cache, "LONG", 1)
    monkeypatch.setattr(spool, "_IN_MEMORY", 100)


def unread(*_: object, **__: object) -> NoReturn:
    raise AssertionError("the text was read again")


@pytest.mark.parametrize("kind", ["none", "line"])
def test_resuming_from_a_file_of_tokens_is_bit_exact_and_reads_no_text(
    here: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    whole = finish(fresh(["text.txt"], "train.steps=20", f"data.documents={kind}", folder="whole"))
    assert not whole.run.tokens.exists()
    monkeypatch.setattr(token_cache, "LONG", 1)
    job = fresh(["text.txt"], "train.steps=20", f"data.documents={kind}")
    for _ in loop.train(job.training, job.run, lambda: job.training.position.step == 9):
        pass
    job.run.release()
    monkeypatch.setattr(spool.TextSpool, "read", unread)
    resumed = finish(resume.resume(Run(Path("run")), CPU))
    for name, weights in whole.training.model.state_dict().items():
        assert torch.equal(weights, resumed.training.model.state_dict()[name]), name


@pytest.mark.usefixtures("long")
def test_a_text_that_was_touched_is_read_again_and_its_tokens_made_anew(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish(fresh(["text.txt"]))
    for touched in (True, False):
        if touched:
            os.utime("text.txt", ns=(1, 1))
        else:
            (here / "run" / "corpus.safetensors").unlink()
        with monkeypatch.context() as patch:
            patch.setattr(spool.TextSpool, "read", unread)
            with pytest.raises(AssertionError, match="read again"):
                resume.resume(Run(Path("run")), CPU)
        resume.resume(Run(Path("run")), CPU).run.release()
        with monkeypatch.context() as patch:
            patch.setattr(spool.TextSpool, "read", unread)
            resume.resume(Run(Path("run")), CPU).run.release()


@pytest.mark.usefixtures("long")
def test_a_run_that_was_resumed_from_a_folder_needs_not_read_it_again(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder's name was kept in place of its files' names, and the tokens of a folder are never believed."""
    finish(fresh(["text.txt"]))
    (here / "texts").mkdir()
    (here / "text.txt").rename(here / "texts" / "text.txt")
    job = finish(resume.resume(Run(Path("run")), CPU, texts=["texts"], settings=["train.steps=8"]))
    assert job.training.config.data.texts == [str(here / "texts" / "text.txt")]
    monkeypatch.setattr(spool.TextSpool, "read", unread)
    for texts in ([], ["texts"]):
        assert finish(resume.resume(Run(Path("run")), CPU, texts=texts)).training.position.step == 8


@pytest.mark.usefixtures("long")
@pytest.mark.parametrize("name", ["run", "deep/er/run"])
def test_a_temporary_file_that_has_a_name_does_not_take_the_run_folder(
    here: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """On Windows and on network disks it has one, and lay in the run folder where that was there already."""
    named = tempfile.NamedTemporaryFile
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda mode, dir, **_: named(mode, dir=dir))
    (here / "run").mkdir()
    assert finish(fresh(["text.txt"], folder=name)).training.position.step == 6
    assert {file.name for file in here.iterdir()} == {"text.txt", "run", name.partition("/")[0]}


def test_where_nothing_above_a_run_can_be_written_to_the_systems_own_place_is_taken(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A drive that is not there once ended in a StopIteration."""
    monkeypatch.setattr(Path, "is_dir", lambda _: False)
    assert new_run._above(Path("Q:/texts/run")) is None


def test_a_large_text_is_announced_before_it_is_read(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for room, expected in ((len(TEXT), ["Reading text.txt (0 MB) ..."]), (len(TEXT) + 1, [])):
        monkeypatch.setattr(spool, "_LARGE", room)
        said: list[str] = []
        finish(fresh(["text.txt"], folder=f"run-{room}", say=said.append))
        assert [note for note in said if note.startswith("Reading")] == expected


@pytest.mark.usefixtures("long")
def test_tokens_that_were_damaged_are_made_anew_and_the_training_ends_the_same(here: Path) -> None:
    for folder in ("whole", "run"):
        finish(fresh(["text.txt"], folder=folder))
    tokens = here / "run" / "corpus.safetensors"
    sound = tokens.read_bytes()
    tokens.write_bytes(sound[:-800] + bytes(800))
    path = here / "run" / "best.safetensors"
    part = training_corpus.held_out(model_file.read_header(path), path)[1]
    assert part.text == TEXT[-len(part) :]
    whole, resumed = (
        finish(resume.resume(Run(Path(name)), CPU, settings=["train.steps=8"])) for name in ("whole", "run")
    )
    assert tokens.read_bytes() == sound
    for name, weights in whole.training.model.state_dict().items():
        assert torch.equal(weights, resumed.training.model.state_dict()[name]), name


@pytest.mark.usefixtures("long")
def test_a_long_text_that_changed_is_not_resumed(here: Path) -> None:
    finish(fresh(["text.txt"]))
    (here / "text.txt").write_text(TEXT.replace("fox", "cat"))
    with pytest.raises(CharRNNError, match=r"has changed since .*--init-from"):
        resume.resume(Run(Path("run")), CPU)
    path = here / "run" / "best.safetensors"
    with pytest.raises(CharRNNError, match=r"has changed since .* Its held-out part is unknown"):
        training_corpus.held_out(model_file.read_header(path), path)


@pytest.mark.usefixtures("long")
def test_the_held_out_part_of_a_long_text_is_there_with_its_tokens_and_without(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish(fresh(["text.txt"], "data.split=[0.8,0.1,0.1]"))
    path = here / "run" / "best.safetensors"
    with monkeypatch.context() as patch:
        patch.setattr(spool.TextSpool, "read", unread)
        kind, part = training_corpus.held_out(model_file.read_header(path), path)
    (here / "run" / "corpus.safetensors").unlink()
    assert (kind, part.text) == ("test part", TEXT[-len(part) :])
    again = training_corpus.held_out(model_file.read_header(path), path)[1]
    assert (again.text, again.tokens.tolist()) == (part.text, part.tokens.tolist())
    assert not (here / "run" / "corpus.safetensors").exists()  # to score is not to change a run


@pytest.mark.usefixtures("long")
@pytest.mark.parametrize("text", ["text.txt", "-"])
def test_a_beginning_that_fails_leaves_no_tokens(here: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(CharRNNError, match="not enough memory"):
        fresh([text], "model.hidden_size=10000000", stdin=io.BytesIO(TEXT.encode()))
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CharRNNError, match=r"the disk is full\. Free at least 1 MB there, then begin again\."):
        fresh([text], stdin=io.BytesIO(TEXT.encode()))
    assert [file.name for file in here.iterdir()] == ["text.txt"]


@pytest.mark.usefixtures("long")
@pytest.mark.parametrize("error", [KeyboardInterrupt, CharRNNError, MemoryError])
def test_a_start_that_fails_when_all_is_encoded_leaves_nothing(
    here: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    """Gigabytes once stayed, and the name was taken."""

    def failing(*_: object, **__: object) -> NoReturn:
        assert (here / "run" / "corpus.safetensors").exists()
        raise error

    monkeypatch.setattr(new_run, "Training", failing)
    with pytest.raises(error):
        fresh(["-"], stdin=io.BytesIO(TEXT.encode()))
    assert [file.name for file in here.iterdir()] == ["text.txt"]


@pytest.mark.usefixtures("long")
def test_a_model_that_cannot_be_read_is_told_of_before_a_long_text_is_encoded(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_cache, "keep", unread)
    with pytest.raises(CharRNNError, match=r"none\.safetensors: no such model file"):
        fresh(["text.txt"], init_from=Path("none.safetensors"))
    assert [file.name for file in here.iterdir()] == ["text.txt"]


@pytest.mark.usefixtures("long")
def test_standard_input_that_is_long_is_kept_and_resumed(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "other.txt").write_text("另一篇" * 50, encoding="utf-16")
    stdin = io.BytesIO(("我爱北京\n" * 30).encode("utf-16"))
    finish(fresh(["other.txt", "-"], "data.encoding=utf-16", stdin=stdin))
    assert (here / "run" / "corpus.txt").read_text(encoding="utf-16") == "我爱北京\n" * 30
    monkeypatch.setattr(spool.TextSpool, "read", unread)
    assert finish(resume.resume(Run(Path("run")), CPU)).training.position.step == 6
    # moved, it was once read again each time: its tokens named the copy by where it had been
    (here / "run").rename(here / "moved")
    assert finish(resume.resume(Run(Path("moved")), CPU)).training.position.step == 6
    os.utime(here / "moved" / "corpus.txt", ns=(1, 1))
    with pytest.raises(AssertionError, match="read again"):
        resume.resume(Run(Path("moved")), CPU)


@pytest.mark.usefixtures("long")
def test_what_was_left_of_a_beginning_that_was_killed_is_nothing(here: Path) -> None:
    (here / "run").mkdir()
    for name in (".lock", "corpus.safetensors", "corpus.safetensors.tmp"):
        (here / "run" / name).write_bytes(b"x" * 9)
    finish(fresh(["text.txt"]))
    assert not (here / "run" / "corpus.safetensors.tmp").exists()
    assert finish(resume.resume(Run(Path("run")), CPU)).training.position.step == 6


def test_what_was_left_of_a_long_text_does_not_stay_beside_a_short_one(here: Path) -> None:
    (here / "run").mkdir()
    left = {"corpus.safetensors", "corpus.safetensors.tmp", "corpus.txt.tmp"}
    for name in (".lock", *left):
        (here / "run" / name).write_bytes(b"x" * 9)
    finish(fresh(["text.txt"]))
    assert not left & {file.name for file in (here / "run").iterdir()}


def test_other_training_settings_may_change_and_are_written_down(here: Path) -> None:
    finish(fresh(["text.txt"]))
    resumed = finish(resume.resume(Run(Path("run")), CPU, settings=["train.epochs=1", "train.learning_rate=0.5"]))
    assert resumed.training.config.train.steps is None
    written = loading.load("run/config.yaml")
    assert (written.train.epochs, written.train.learning_rate) == (1, 0.5)


def test_a_runs_configuration_reproduces_it(here: Path) -> None:
    one = finish(fresh(["text.txt"]))
    other = finish(new_run.start(loading.load("run/config.yaml"), Path("again"), CPU))
    for name, weights in one.training.model.state_dict().items():
        assert torch.equal(weights, other.training.model.state_dict()[name]), name


@pytest.mark.bf16
def test_no_auto_is_left_in_a_run(here: Path) -> None:
    chosen = loading.load(None, ["train.steps=2", "train.seed=1"]).with_values(data={"texts": ["text.txt"]})
    job = new_run.start(chosen, Path("run"), CPU)
    job.run.release()
    assert ": auto" not in loading.dump(job.training.config)


def test_fine_tuning_matches_characters_by_character(here: Path) -> None:
    finish(fresh(["text.txt"], folder="old"))
    (here / "new.txt").write_text("zebras quiz 鸟, a fox. " * 30)
    path = here / "old" / "best.safetensors"
    chosen = loading.load(None, [*TINY, "train.steps=1"], fine_tuning.fine_tuning_base(path))
    said: list[str] = []
    chosen = chosen.with_values(data={"texts": ["new.txt"]})
    job = new_run.start(chosen, Path("new"), CPU, init_from=path, say=said.append)
    job.run.release()
    header, old = model_file.read_model(path)
    new = job.training.model
    assert isinstance(old, CharRNN)
    assert isinstance(new, CharRNN)
    for character in "zfx":
        before = header.vocabulary.characters.index(character)
        after = job.training.vocabulary.characters.index(character)
        assert torch.equal(old.embedding[before], new.embedding[after])
        assert old.head is not None
        assert new.head is not None
        assert torch.equal(old.head[before], new.head[after])
    fresh_one = job.training.vocabulary.characters.index("鸟")
    torch.testing.assert_close(new.embedding[fresh_one], old.embedding.mean(0))
    news = sorted(set((here / "new.txt").read_text()) - set(header.vocabulary.characters))
    assert any(f"its {len(header.vocabulary)} characters; {len(news)} more are new." in note for note in said)


def test_fine_tuning_forgets_no_character(here: Path) -> None:
    """What the new text lacks keeps its rows, and is held-out text's to find: also when the run is resumed, or scored,
    from the text and not from tokens that were kept."""
    old = finish(fresh(["text.txt"], folder="old")).training
    (here / "few.txt").write_text("the fox sat 鸟 at the oats\n" * 40 + "zebra\n" * 15)
    path = here / "old" / "best.safetensors"
    chosen = loading.load(None, [*TINY, "train.steps=4"], fine_tuning.fine_tuning_base(path))
    job = finish(new_run.start(chosen.with_values(data={"texts": ["few.txt"]}), Path("new"), CPU, init_from=path))
    vocabulary = job.training.vocabulary
    assert set(old.vocabulary.characters) | {"鸟"} == set(vocabulary.characters)
    assert len(vocabulary) == len(old.vocabulary) + 1
    assert "z" not in (here / "few.txt").read_text()[: job.training.card.training]
    assert not (job.training.validation == vocabulary.escape).any()
    best = here / "new" / "best.safetensors"
    part = training_corpus.held_out(model_file.read_header(best), best)[1]
    assert part.vocabulary == vocabulary
    resumed = finish(resume.resume(Run(Path("new")), CPU, settings=["train.steps=6"]))
    assert resumed.training.vocabulary == vocabulary
    assert resumed.training.position.step == 6


@pytest.mark.parametrize(
    "model",
    [
        ["model.cell=lstm"],
        ["model.tie_weights=true", "model.embedding_size=5"],
        ["model.bidirectional=true"],
        ["model.cell=hmm"],
    ],
    ids=["lstm", "tied", "both directions", "hmm"],
)
@pytest.mark.parametrize("options", [[], ["train.optimizer=sgd", "train.l1=0.01"]], ids=["adamw", "sgd and l1"])
def test_what_the_text_lacks_stays_as_it_was(here: Path, model: list[str], options: list[str]) -> None:
    """And what it has is learnt, all rows that a character has in any head."""
    how = [setting for setting in TINY if setting.startswith("train.")] + ["train.steps=6"]
    sizes = ["model.hidden_size=5"] if "model.cell=hmm" in model else [*TINY[:4]]
    fixed = loading.load(None, [*how, *sizes, *model]).with_values(data={"texts": ["text.txt"]})
    finish(new_run.start(fixed, Path("old"), CPU))
    (here / "few.txt").write_text("the fox sat at the oats\n" * 40)
    path = here / "old" / "best.safetensors"
    header, old = model_file.read_model(path)
    chosen = loading.load(None, [*how, "train.weight_decay=1", *options], fine_tuning.fine_tuning_base(path))
    job = finish(new_run.start(chosen.with_values(data={"texts": ["few.txt"]}), Path("new"), CPU, init_from=path))
    characters, before = job.training.vocabulary.characters, old.state_dict()
    lacking = sorted(set(header.vocabulary.characters) - set("the fox sat at the oats\n"))
    assert job.training.vocabulary.unseen == len(lacking) > 0
    names = BY_CHARACTER & before.keys()
    assert names
    for name in names:
        after = job.training.model.state_dict()[name]
        for character in header.vocabulary.characters:
            row, now = before[name][header.vocabulary.characters.index(character)], after[characters.index(character)]
            assert torch.equal(row, now) == (character in lacking), (name, character)


def stopped_at(job: TrainingJob[trainer.Training], step: int) -> None:
    list(loop.train(job.training, job.run, lambda: job.training.position.step >= step))
    job.run.release()


def fine_tuned(old: Path, folder: str, *settings: str) -> TrainingJob[trainer.Training]:
    how = [
        *(setting for setting in TINY if setting.startswith("train.")),
        "model.dropout=0.2",
        "train.distillation=0.3",
    ]
    chosen = loading.load(None, [*how, *settings], fine_tuning.fine_tuning_base(old))
    return new_run.start(chosen.with_values(data={"texts": ["few.txt"]}), Path(folder), CPU, init_from=old)


@pytest.mark.parametrize("model", [["model.cell=gru"], ["model.bidirectional=true", "train.kernel=custom"]], ids=str)
def test_fine_tuning_learns_from_the_model_it_began_with_also_when_resumed(here: Path, model: list[str]) -> None:
    """Bit for bit, though the model that it began with is gone by then."""
    how = ("train.steps=23", "train.eval_every=9")
    old = finish(fresh(["text.txt"], *model, folder="old")).run.best
    (here / "few.txt").write_text("the fox 鸟 sat at the oats\n" * 40)
    distillation_weight = finish(fine_tuned(old, "whole", *how)).training
    alone = finish(fine_tuned(old, "alone", *how, "train.distillation=0")).training
    assert distillation_weight.teacher is not None
    assert alone.teacher is None
    weights, others = distillation_weight.model.state_dict(), alone.model.state_dict()
    assert not any(torch.equal(weights[name], others[name]) for name in weights)
    start = model_file.read_model(old)[1].state_dict()
    for name, weight in distillation_weight.teacher.model.state_dict().items():
        assert name in BY_CHARACTER or torch.equal(weight, start[name]), name
    job = fine_tuned(old, "parts", *how)
    shutil.rmtree(here / "old")
    for step in (4, 10, 17):  # in the middle of an epoch
        stopped_at(job, step)
        job = resume.resume(Run(Path("parts")), CPU)
    job.run.release()
    resumed = finish(resume.resume(Run(Path("parts")), CPU)).training
    for name, weight in resumed.model.state_dict().items():
        assert torch.equal(weight, weights[name]), name
    assert not any("teacher" in name for name in model_file.read_tensors(here / "parts" / "best.safetensors"))


def test_a_model_teaches_what_a_short_text_cannot(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has to foretell the new text not far worse than counting does, and no other share was asked for."""
    words = ["the", "fox", "sat", "at", "oats", "and", "barley", "while", "seven", "larks", "sang", "quietly"]
    draw = random.Random(1)
    long, short = (" ".join(draw.choice(words) for _ in range(count)) for count in (5_000, 60))
    for name, content in (("long.txt", long), ("alike.txt", short), ("other.txt", "zqxj quux jazz\n" * 99)):
        (here / name).write_text(content)
    settings = "train.steps=400", "model.hidden_size=32", "train.sequence_length=30"
    old = finish(fresh(["long.txt"], *settings, folder="old")).run.best

    planned: list[float | str] = []
    compared: list[float | None] = []
    baseline_scores: list[object] = []
    plans, reckons = auto_config.plan, baselines.compute

    def spied(chosen: schema.Config, *sizes: Any, **more: Any) -> auto_config.Plan:
        planned.append(chosen.train.distillation)
        compared.append(more["known"])
        return plans(chosen, *sizes, **more)

    def counted_once(corpus: Corpus) -> scores.BaselineScores:
        baseline_scores.append(corpus)
        return reckons(corpus)

    monkeypatch.setattr(auto_config, "plan", spied)
    monkeypatch.setattr(auto_config, "fine_tuning_rate", lambda known: 0.001 if known == compared[-1] else math.nan)
    monkeypatch.setattr(baselines, "compute", counted_once)

    def job(text: str, *settings: str, known: int = 10**6) -> tuple[trainer.Training, str]:
        said: list[str] = []
        chosen = loading.load(None, ["train.steps=1", "train.seed=1", *settings], fine_tuning.fine_tuning_base(old))
        folder = here / f"{text}-{len(settings)}-{known}"
        monkeypatch.setattr(baselines, "SOON", known)
        planned.clear()
        baseline_scores.clear()
        chosen = chosen.with_values(data={"texts": [text]})
        training = finish(new_run.start(chosen, folder, CPU, init_from=old, say=said.append)).training
        share = training.config.train.distillation
        assert loading.load(str(folder / "config.yaml")).train.distillation == share
        assert (training.teacher is not None) == (share != 0.0)
        assert planned == [share if known > 100 else "auto"]  # steps are tried as they will be
        assert len(baseline_scores) == 1
        return training, next((note for note in said if note.startswith("It needs ")), "")

    alike, said = job("alike.txt")
    assert alike.config.train.distillation == 0.3
    assert said.endswith("what it expects counts for 30% of what is learnt.")
    assert alike.baselines is not None
    counted = alike.baselines.validation.fields()["ngram"]["bits_per_character"]
    assert alike.teacher is not None
    bits = scoring.evaluate(alike.teacher.model, alike.vocabulary, alike.validation).score.bits_per_character
    assert f"It needs {bits:.4f} bits/char here, an n-gram model of this text {counted:.4f}: " in said
    assert compared[-1] == pytest.approx(bits / counted)
    assert alike.config.train.learning_rate == 0.001
    other, said = job("other.txt")
    assert other.config.train.distillation == 0.0
    assert said.endswith("it does not teach.")
    asked, said = job("other.txt", "train.distillation=0.1")
    assert asked.config.train.distillation == 0.1
    assert re.search(r"an n-gram model of this text \d+\.\d{4}\.$", said)  # compared all the same, for the rate
    both, said = job("other.txt", "train.distillation=0.1", "train.learning_rate=0.01")
    assert (both.config.train.distillation, said, compared[-1]) == (0.1, "", None)
    long_enough, said = job("alike.txt", known=100)
    assert (long_enough.config.train.distillation, said, compared[-1]) == (0.0, "", None)


def test_going_back_puts_the_teacher_back_as_well(here: Path) -> None:
    old = finish(fresh(["text.txt"], folder="old")).run.best
    (here / "few.txt").write_text("the fox 鸟 sat at the oats\n" * 40)
    training = finish(fine_tuned(old, "new", "train.steps=6", "train.eval_every=3")).training
    assert training.teacher is not None
    before = training._tensors()
    training.step()
    assert not torch.equal(
        training._tensors()["training/teacher_state/hidden"], before["training/teacher_state/hidden"]
    )
    training._roll_back()
    for name, tensor in training._tensors().items():
        assert torch.equal(tensor, before[name]), name


def test_what_a_fine_tuning_starts_from_is_scored_first_and_kept_where_nothing_better_comes(here: Path) -> None:
    """Be it after more evaluations than patience has: a low rate may still win in the end."""
    old = finish(fresh(["text.txt"], "train.steps=40", folder="old"))
    (here / "few.txt").write_text(TEXT)
    harm = ("train.learning_rate=5", "train.steps=12", "train.eval_every=2", "train.distillation=0")
    job = finish(fine_tuned(old.run.best, "worse", *harm, "train.patience=null"))
    first, *others = job.training.history
    assert [first.step, *(one.step for one in others)] == [0, 2, 4, 6, 8, 10, 12]
    score = scoring.evaluate(model_file.read_model(old.run.best)[1], old.training.vocabulary, job.training.validation)
    assert first.bits_per_character == pytest.approx(score.score.bits_per_character)
    assert first.training_bits_per_character is None
    assert all(one.judged_bits > first.judged_bits for one in others)
    header, kept = model_file.read_model(job.run.best)
    assert header.history == (first,)
    for name, weight in model_file.read_model(old.run.best)[1].state_dict().items():
        assert torch.equal(kept.state_dict()[name], weight), name
    line = json.loads((here / "worse" / "metrics.jsonl").read_text().splitlines()[0])
    assert (line["step"], line["training_bits_per_character"]) == (0, None)
    finished = events.Finished("done", tuple(job.training.history), 12)
    assert "That is the model that it started from" in summary.closing(finished, job.training.config, job.run.best)
    whole = model_file.read_header(job.run.last)
    assert "7 evaluations" in model_page.page(job.run.last, whole)
    gentle = finish(fine_tuned(old.run.best, "better", "train.steps=30", "train.patience=1", "train.distillation=0"))
    assert min(gentle.training.history, key=lambda one: one.judged_bits).step > 0
    # patience counts from the best that was learnt
    stops = finish(fine_tuned(old.run.best, "patience", *harm, "train.patience=2"))
    after = [one.judged_bits for one in stops.training.history if one.step > 0]
    assert len(after) == 6 or after.index(min(after)) == len(after) - 3
    assert len(after) >= 3


def test_a_share_for_a_teacher_takes_a_teacher(here: Path) -> None:
    with pytest.raises(MisuseError, match=r"=0\.5 takes a model to learn from: name it with --init-from, or set"):
        fresh(["text.txt"], "train.distillation=0.5")
    assert not (here / "run").exists()
    training = finish(fresh(["text.txt"])).training
    assert training.config.train.distillation == 0.0
    with pytest.raises(MisuseError, match=r"train\.distillation=0\.5 cannot be changed on resume"):
        resume.resume(Run(Path("run")), CPU, settings=["train.distillation=0.5"])


def test_a_run_whose_teacher_is_gone_is_damaged(here: Path) -> None:
    old = finish(fresh(["text.txt"], folder="old")).run.best
    (here / "few.txt").write_text("the fox 鸟 sat at the oats\n" * 40)
    run = finish(fine_tuned(old, "new", "train.steps=3")).run
    tensors, header = model_file.read_tensors(run.last), model_file.read_header(run.last)
    kept = {name: tensor for name, tensor in tensors.items() if "teacher/" not in name}
    run.last.write_bytes(model_file.to_bytes(header, kept))
    with pytest.raises(
        CharRNNError, match=r"new/last\.safetensors is damaged.*the model that it learns from is missing"
    ):
        resume.resume(run, CPU)


def test_a_run_from_before_there_were_teachers_is_resumed(here: Path) -> None:
    run = finish(fresh(["text.txt"])).run
    header = model_file.read_header(run.last)
    before = replace(header, config=header.config.with_values(train={"distillation": "auto", "kernel": "auto"}))
    run.last.write_bytes(model_file.to_bytes(before, model_file.read_tensors(run.last)))
    training = finish(resume.resume(run, CPU)).training
    assert (training.config.train.distillation, training.config.train.kernel) == (0.0, "torch")


def test_fine_tuning_a_bidirectional_model_begins_where_it_ended(here: Path) -> None:
    """Every weight of both stacks and of all three heads is taken over, whatever characters are new."""
    old = finish(fresh(["text.txt"], "model.bidirectional=true", folder="old"))
    (here / "new.txt").write_text(TEXT + "zebras quiz 鸟")
    path = here / "old" / "last.safetensors"
    for text, name in (("text.txt", "same"), ("new.txt", "new")):
        chosen = loading.load(None, [*TINY, "train.steps=1"], fine_tuning.fine_tuning_base(path))
        assert chosen.model.bidirectional
        job = new_run.start(chosen.with_values(data={"texts": [text]}), Path(name), CPU, init_from=path)
        job.run.release()
        weights = job.training.model.state_dict()
        assert weights.keys() == old.training.model.state_dict().keys()
        characters = job.training.vocabulary.characters
        rows = torch.tensor([characters.index(character) for character in old.training.vocabulary.characters])
        for key, before in old.training.model.state_dict().items():
            by_row = key in {"embedding", "head", "head_bias", "backward_bias", "joint_bias"}
            assert torch.equal(weights[key][rows] if by_row else weights[key], before), (name, key)
    other = loading.load(None, ["model.bidirectional=false"], fine_tuning.fine_tuning_base(path))
    with pytest.raises(MisuseError, match=r"leave out model\.bidirectional=false"):
        fine_tuning.check_fine_tuning(path, other)


def test_a_bidirectional_model_read_from_its_file_writes_and_scores_the_same(here: Path) -> None:
    training = finish(fresh(["text.txt"], "model.bidirectional=true")).training
    header, model = model_file.read_model(here / "run" / "last.safetensors")
    assert isinstance(model, BidirectionalRNN)
    assert header.config.model.bidirectional
    assert header.vocabulary == training.vocabulary
    written, scores = [], []
    for one in (training.model, model):
        assert isinstance(one, BidirectionalRNN)
        sampler = Sampler(TorchModel(one), header.vocabulary, ["the ", "q"], 60, Filters(0.8), seed=3, indices=[0, 1])
        written.append(["".join(shown) for shown in zip(*sampler, strict=True)])
        forward = scoring.evaluate(one, header.vocabulary, training.validation)
        scores.append((forward, cloze.score(one, header.vocabulary, training.validation, forward)))
    assert written[0] == written[1]
    assert scores[0] == scores[1]
    assert all(len(text) == 60 for text in written[0])


def test_fine_tuning_keeps_the_architecture(here: Path) -> None:
    finish(fresh(["text.txt"], folder="old"))
    path = here / "old" / "best.safetensors"
    base = fine_tuning.fine_tuning_base(path)
    fine_tuning.check_fine_tuning(path, loading.load(None, ["model.dropout=0.5"], base))
    with pytest.raises(MisuseError, match=r"leave out model\.cell=gru"):
        fine_tuning.check_fine_tuning(path, loading.load(None, ["model.cell=gru"], base))


def test_held_out_is_the_test_part_else_validation(here: Path) -> None:
    for split, name, share in (("[0.8,0.1,0.1]", "test part", 0.1), ("[0.8,0.2,0]", "validation part", 0.2)):
        finish(fresh(["text.txt"], f"data.split={split}", folder=name))
        path = here / name / "best.safetensors"
        kind, part = training_corpus.held_out(model_file.read_header(path), path)
        assert kind == name
        assert part.text == TEXT[-len(part.text) :]
        assert len(part.text) == pytest.approx(len(TEXT) * share, abs=1)


def test_a_bad_text_leaves_no_folder_behind(here: Path) -> None:
    (here / "short.txt").write_text("too short")
    with pytest.raises(CharRNNError, match=r"short\.txt has 9 characters; training needs at least 100"):
        fresh(["short.txt"])
    assert not (here / "run").exists()


def test_a_taken_folder_is_refused_before_the_text_is_read(here: Path) -> None:
    finish(fresh(["text.txt"]))
    before = (here / "run" / "best.safetensors").read_bytes()
    with pytest.raises(MisuseError, match="exists already"):
        fresh(["nowhere.txt"])
    assert (here / "run" / "best.safetensors").read_bytes() == before


@pytest.mark.parametrize("name", ["cuda", "cuda:7", "tpu", "mps", "xpu"])
def test_a_device_that_is_not_there_is_a_sentence(name: str) -> None:
    if torch.cuda.is_available() and name == "cuda":
        pytest.skip("there is one")
    if torch.backends.mps.is_available() and name == "mps":
        pytest.skip("there is one")
    with pytest.raises(MisuseError, match=rf"{name}"):
        device.choose_device(name)


@pytest.mark.parametrize("kind", [RuntimeError, torch.cuda.DeferredCudaCallError])
@pytest.mark.parametrize("name", ["auto", "cuda"])
def test_a_gpu_that_torch_has_no_kernels_for_is_left_alone(
    name: str, kind: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def one(*shape: int, device: torch.device) -> None:
        assert device.type == "cuda"
        raise kind("CUDA error: no kernel image is available for execution on the device\nCompile with ...")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch, "ones", one)
    if name == "auto":
        said: list[str] = []
        assert device.choose_device(name, said.append) == CPU
        assert said == [
            "cuda does not compute here (CUDA error: no kernel image is available for execution on the device);"
            " taking the CPU."
        ]
        return
    with pytest.raises(
        MisuseError, match=r"cuda does not compute here \(CUDA error: no kernel image .* device\)\. Leave"
    ):
        device.choose_device(name)


def test_a_run_of_a_gpu_that_computes_no_longer_goes_on_elsewhere(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = fresh(["text.txt"])
    job.training.step()
    job.training.settle()
    job.training.position.device = "cuda"
    job.training.save_last(job.run)
    job.run.release()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(device, "_refusal", lambda device: "it is full")
    said: list[str] = []
    resumed = resume.resume(job.run, None, say=said.append)
    resumed.run.release()
    assert resumed.training.device == CPU
    assert "cuda does not compute here (it is full); taking the CPU." in said


def test_a_gpu_that_computes_is_taken_for_exact_numbers_and_the_same_ones_each_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(device, "_refusal", lambda device: None)
    before = device.allow_tf32(True)
    try:
        assert device.choose_device("auto") == torch.device("cuda")
        assert not device.allow_tf32(before)
    finally:
        device.allow_tf32(before)
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


def test_a_run_over_a_folder_is_resumed_though_the_run_lies_in_it(here: Path) -> None:
    job = finish(fresh(["."]))
    assert job.training.config.data.texts == [str(here / "text.txt")]
    assert (here / "run" / "samples.txt").exists()
    assert finish(resume.resume(Run(Path("run")), CPU, settings=["train.steps=8"])).training.position.step == 8
    again = finish(fresh(["."], folder="again"))
    assert again.training.config.data.texts == [str(here / "text.txt")]  # what models wrote is no text


def test_a_shorter_length_than_was_done_is_refused(here: Path) -> None:
    finish(fresh(["text.txt"]))
    before = (here / "run" / "config.yaml").read_text()
    with pytest.raises(MisuseError, match="has done 6 steps already, and this would be 3"):
        resume.resume(Run(Path("run")), CPU, settings=["train.steps=3"])
    assert (here / "run" / "config.yaml").read_text() == before


def test_moving_the_text_keeps_the_patience(here: Path) -> None:
    job = fresh(["text.txt"])
    job.training.position.stale = 3
    job.training.save_last(job.run)
    job.run.release()
    (here / "text.txt").rename(here / "else.txt")
    resumed = resume.resume(Run(Path("run")), CPU, texts=["else.txt"])
    resumed.run.release()
    assert resumed.training.position.stale == 3


def test_a_training_part_of_nothing_is_a_sentence(here: Path) -> None:
    with pytest.raises(CharRNNError, match="leaves 9 characters to learn"):
        fresh(["text.txt"], "data.split=[0.01,0.49,0.5]")


def test_a_plan_that_fails_leaves_no_folder(here: Path) -> None:
    with pytest.raises(CharRNNError, match="not enough memory"):
        fresh(["text.txt"], "model.hidden_size=10000000", folder="huge")
    assert not (here / "huge").exists()
