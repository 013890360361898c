"""Claims about starting, resuming and fine-tuning."""

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
from charrnn.training import auto_config, events, fine_tuning, loop, new_run, resume
from charrnn.training.job import TrainingJob
from charrnn.training.training_step import Training
from tests.conftest import TEXT, TINY

CPU = torch.device("cpu")


def finish(job: TrainingJob[Training]) -> TrainingJob[Training]:
    for _ in loop.train(job.training, job.run):
        pass
    job.run.release()
    return job


def fresh(texts: list[str], *settings: str, folder: str = "run", **options: object) -> TrainingJob[Training]:
    chosen = loading.load(None, [*TINY, "train.steps=6", *settings]).with_values(data={"texts": texts})
    return new_run.start(chosen, Path(folder), CPU, **options)  # type: ignore[arg-type]


def test_a_run_keeps_a_copy_of_standard_input_and_resumes_from_it_in_another_folder(here: Path) -> None:
    job = finish(fresh(["-"], stdin=io.BytesIO(TEXT.encode())))
    assert (here / "run" / "corpus.txt").read_text() == TEXT
    assert job.training.config.data.texts == [str(here / "run" / "corpus.txt")]
    (here / "run").rename(here / "moved")
    resumed = resume.resume(Run(Path("moved")), CPU, settings=["train.steps=8"])
    assert finish(resumed).training.position.step == 8


def test_only_what_counting_does_not_predict_is_trained_with_dropout(here: Path) -> None:
    letters = "".join(random.Random(1).choices("abcdefgh\n", k=2_000))
    for name, text, dropout in (("count.txt", "0123456789\n" * 200, 0.0), ("letters.txt", letters, 0.5)):
        (here / name).write_text(text)
        job = fresh([name], "model.dropout=auto", "train.steps=600", folder=f"run-{name}")
        job.run.release()
        assert job.training.config.model.dropout == dropout


def test_the_copy_holds_standard_input_only_in_the_encoding_of_the_texts(here: Path) -> None:
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
    ("fast", "settings", "warnings"), [(True, [], 0), (False, [], 1), (False, ["train.precision=fp32"], 0)]
)
def test_a_bf16_run_resumes_where_bf16_is_slow_with_a_warning(
    here: Path, fast: bool, settings: list[str], warnings: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also on a CPU without a kernel for it, with the custom one."""
    finish(fresh(["text.txt"], "train.precision=bf16", "train.kernel=torch"))
    monkeypatch.setattr(resume, "bf16_on", lambda device: Bf16(fast=fast, lstm=False))
    said: list[str] = []
    resumed = resume.resume(Run(Path("run")), CPU, settings=["train.steps=8", *settings], say=said.append)
    assert finish(resumed).training.position.step == 8
    assert said.count("bf16 is slow on cpu: -s train.precision=fp32 is faster, and no less accurate.") == warnings


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
        ("train.epochs=auto", r"train\.epochs=auto was resolved when the run started"),
        ("train.learning_rate=auto", r"train\.learning_rate=auto was resolved"),
        ("train.weight_decay=auto", r"train\.weight_decay=auto was resolved"),
    ],
)
def test_settings_that_the_state_depends_on_cannot_be_changed(here: Path, setting: str, message: str) -> None:
    finish(fresh(["text.txt"]))
    with pytest.raises(MisuseError, match=message):
        resume.resume(Run(Path("run")), CPU, settings=[setting])


# Long texts, whose tokens are cached in the run folder


@pytest.fixture
def long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treat every text as a long one."""
    monkeypatch.setattr(token_cache, "MIN_FILE_BYTES", 1)
    monkeypatch.setattr(spool, "MAX_IN_MEMORY", 100)


def unread(*_: object, **__: object) -> NoReturn:
    raise AssertionError("the text was read again")


@pytest.mark.parametrize("kind", ["none", "line"])
def test_resuming_from_cached_tokens_is_bit_exact_and_reads_no_text(
    here: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    whole = finish(fresh(["text.txt"], "train.steps=20", f"data.documents={kind}", folder="whole"))
    assert not whole.run.tokens.exists()
    monkeypatch.setattr(token_cache, "MIN_FILE_BYTES", 1)
    job = fresh(["text.txt"], "train.steps=20", f"data.documents={kind}")
    for _ in loop.train(job.training, job.run, lambda: job.training.position.step == 9):
        pass
    job.run.release()
    monkeypatch.setattr(spool.TextSpool, "read", unread)
    resumed = finish(resume.resume(Run(Path("run")), CPU))
    for name, weights in whole.training.model.state_dict().items():
        assert torch.equal(weights, resumed.training.model.state_dict()[name]), name


@pytest.mark.usefixtures("long")
def test_a_text_with_a_new_timestamp_is_read_and_encoded_again(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_a_run_resumed_from_a_folder_does_not_read_it_a_second_time(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder was recorded instead of its files, and cached tokens of a folder are never trusted."""
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
def test_a_named_temporary_file_does_not_make_the_run_folder_look_taken(
    here: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """On Windows and on network disks it has a name, and was in the run folder if that existed already."""
    named = tempfile.NamedTemporaryFile
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda mode, dir, **_: named(mode, dir=dir))
    (here / "run").mkdir()
    assert finish(fresh(["text.txt"], folder=name)).training.position.step == 6
    assert {file.name for file in here.iterdir()} == {"text.txt", "run", name.partition("/")[0]}


def test_without_a_writable_parent_the_system_temporary_folder_is_used(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A missing drive once raised StopIteration."""
    monkeypatch.setattr(new_run, "is_folder", lambda _: False)
    assert new_run.writable_parent(Path("Q:/texts/run")) is None


def test_a_large_text_is_announced_before_it_is_read(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for limit, expected in ((len(TEXT), ["Reading text.txt (0 MB) ..."]), (len(TEXT) + 1, [])):
        monkeypatch.setattr(spool, "_LARGE", limit)
        said: list[str] = []
        finish(fresh(["text.txt"], folder=f"run-{limit}", say=said.append))
        assert [note for note in said if note.startswith("Reading")] == expected


@pytest.mark.usefixtures("long")
def test_damaged_tokens_are_encoded_again_and_training_ends_the_same(here: Path) -> None:
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
    with pytest.raises(CharRNNError, match=r"has changed since .* Name a text to score instead"):
        training_corpus.held_out(model_file.read_header(path), path)


@pytest.mark.usefixtures("long")
def test_the_held_out_split_of_a_long_text_is_found_with_cached_tokens_and_without(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish(fresh(["text.txt"], "data.split=[0.8,0.1,0.1]"))
    path = here / "run" / "best.safetensors"
    with monkeypatch.context() as patch:
        patch.setattr(spool.TextSpool, "read", unread)
        kind, part = training_corpus.held_out(model_file.read_header(path), path)
    (here / "run" / "corpus.safetensors").unlink()
    assert (kind, part.text) == ("test split", TEXT[-len(part) :])
    again = training_corpus.held_out(model_file.read_header(path), path)[1]
    assert (again.text, again.tokens.tolist()) == (part.text, part.tokens.tolist())
    assert not (here / "run" / "corpus.safetensors").exists()  # scoring does not change a run


@pytest.mark.usefixtures("long")
@pytest.mark.parametrize("text", ["text.txt", "-"])
def test_a_start_that_fails_leaves_no_tokens(here: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(CharRNNError, match="Not enough memory"):
        fresh([text], "model.hidden_size=10000000", stdin=io.BytesIO(TEXT.encode()))
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CharRNNError, match=r"the disk is full\. Free at least 1 MB there, then start again\."):
        fresh([text], stdin=io.BytesIO(TEXT.encode()))
    assert [file.name for file in here.iterdir()] == ["text.txt"]


@pytest.mark.usefixtures("long")
@pytest.mark.parametrize("error", [KeyboardInterrupt, CharRNNError, MemoryError])
def test_a_start_that_fails_after_encoding_leaves_nothing(
    here: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    """Gigabytes once stayed, and the folder was taken."""

    def failing(*_: object, **__: object) -> NoReturn:
        assert (here / "run" / "corpus.safetensors").exists()
        raise error

    monkeypatch.setattr(new_run, "Training", failing)
    with pytest.raises(error):
        fresh(["-"], stdin=io.BytesIO(TEXT.encode()))
    assert [file.name for file in here.iterdir()] == ["text.txt"]


@pytest.mark.usefixtures("long")
def test_an_unreadable_base_model_is_reported_before_a_long_text_is_encoded(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_cache, "write", unread)
    with pytest.raises(CharRNNError, match=r"none\.safetensors: no such model file"):
        fresh(["text.txt"], init_from=Path("none.safetensors"))
    assert [file.name for file in here.iterdir()] == ["text.txt"]


@pytest.mark.usefixtures("long")
def test_a_long_standard_input_is_copied_and_resumed(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "other.txt").write_text("另一篇" * 50, encoding="utf-16")
    stdin = io.BytesIO(("我爱北京\n" * 30).encode("utf-16"))
    finish(fresh(["other.txt", "-"], "data.encoding=utf-16", stdin=stdin))
    assert (here / "run" / "corpus.txt").read_text(encoding="utf-16") == "我爱北京\n" * 30
    monkeypatch.setattr(spool.TextSpool, "read", unread)
    assert finish(resume.resume(Run(Path("run")), CPU)).training.position.step == 6
    # after a move it was once read again each time: its tokens named the copy by its old path
    (here / "run").rename(here / "moved")
    assert finish(resume.resume(Run(Path("moved")), CPU)).training.position.step == 6
    os.utime(here / "moved" / "corpus.txt", ns=(1, 1))
    with pytest.raises(AssertionError, match="read again"):
        resume.resume(Run(Path("moved")), CPU)


@pytest.mark.usefixtures("long")
def test_leftovers_of_a_killed_start_are_ignored(here: Path) -> None:
    (here / "run").mkdir()
    for name in (".lock", "corpus.safetensors", "corpus.safetensors.tmp"):
        (here / "run" / name).write_bytes(b"x" * 9)
    finish(fresh(["text.txt"]))
    assert not (here / "run" / "corpus.safetensors.tmp").exists()
    assert finish(resume.resume(Run(Path("run")), CPU)).training.position.step == 6


def test_leftovers_of_a_long_text_are_removed_when_a_short_one_starts(here: Path) -> None:
    (here / "run").mkdir()
    left = {"corpus.safetensors", "corpus.safetensors.tmp", "corpus.txt.tmp"}
    for name in (".lock", *left):
        (here / "run" / name).write_bytes(b"x" * 9)
    finish(fresh(["text.txt"]))
    assert not left & {file.name for file in (here / "run").iterdir()}


def test_other_training_settings_may_change_and_are_saved(here: Path) -> None:
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
def test_no_auto_is_left_in_a_run_but_what_each_evaluation_decides(here: Path) -> None:
    chosen = loading.load(None, ["train.steps=2", "train.seed=1"]).with_values(data={"texts": ["text.txt"]})
    job = new_run.start(chosen, Path("run"), CPU)
    job.run.release()
    assert loading.dump(job.training.config).count(": auto") == 1
    assert job.training.config.model.mixture == "auto"


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


def test_fine_tuning_keeps_every_character_of_the_vocabulary(here: Path) -> None:
    """Characters that the new training split lacks keep their rows, and may occur in held-out text: also when the run
    is resumed or scored from the text and not from cached tokens."""
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
def test_weights_of_unseen_characters_do_not_change(here: Path, model: list[str], options: list[str]) -> None:
    """Those of its own characters do, all rows that a character has in any head."""
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


def stopped_at(job: TrainingJob[Training], step: int) -> None:
    list(loop.train(job.training, job.run, lambda: job.training.position.step >= step))
    job.run.release()


def fine_tuned(old: Path, folder: str, *settings: str) -> TrainingJob[Training]:
    how = [
        *(setting for setting in TINY if setting.startswith("train.")),
        "model.dropout=0.2",
        "model.mixture=none",
        "train.distillation=0.3",
    ]
    chosen = loading.load(None, [*how, *settings], fine_tuning.fine_tuning_base(old))
    return new_run.start(chosen.with_values(data={"texts": ["few.txt"]}), Path(folder), CPU, init_from=old)


@pytest.mark.parametrize("model", [["model.cell=gru"], ["model.bidirectional=true", "train.kernel=custom"]], ids=str)
def test_fine_tuning_distils_from_its_base_model_also_when_resumed(here: Path, model: list[str]) -> None:
    """Bit for bit, though the base model's file is gone by then."""
    how = ("train.steps=23", "train.eval_every=9")
    old = finish(fresh(["text.txt"], *model, folder="old")).run.best
    (here / "few.txt").write_text("the fox 鸟 sat at the oats\n" * 40)
    distilled = finish(fine_tuned(old, "whole", *how)).training
    alone = finish(fine_tuned(old, "alone", *how, "train.distillation=0")).training
    assert distilled.teacher is not None
    assert alone.teacher is None
    weights, others = distilled.model.state_dict(), alone.model.state_dict()
    assert not any(torch.equal(weights[name], others[name]) for name in weights)
    start = model_file.read_model(old)[1].state_dict()
    for name, weight in distilled.teacher.model.state_dict().items():
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
    assert not any("teacher" in name for name in model_file.read(here / "parts" / "best.safetensors", training=True)[1])


def test_the_base_model_is_compared_with_n_grams_to_resolve_distillation(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It must predict the new text not much worse than n-grams do, and distillation must be auto."""
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
    plan, compute = auto_config.plan, baselines.compute

    def spied(chosen: schema.Config, *sizes: Any, **more: Any) -> auto_config.TrainingPlan:
        planned.append(chosen.train.distillation)
        compared.append(more["relative_bits"])
        return plan(chosen, *sizes, **more)

    def counted_once(corpus: Corpus, **more: Any) -> scores.BaselineScores:
        baseline_scores.append(corpus)
        return compute(corpus, **more)

    monkeypatch.setattr(auto_config, "plan", spied)
    monkeypatch.setattr(auto_config, "fine_tuning_rate", lambda known: 0.001 if known == compared[-1] else math.nan)
    monkeypatch.setattr(baselines, "compute", counted_once)

    def job(text: str, *settings: str, known: int = 10**6) -> tuple[Training, str]:
        said: list[str] = []
        chosen = loading.load(None, ["train.steps=1", "train.seed=1", *settings], fine_tuning.fine_tuning_base(old))
        folder = here / f"{text}-{len(settings)}-{known}"
        monkeypatch.setattr(baselines, "MAX_AT_START", known)
        planned.clear()
        baseline_scores.clear()
        chosen = chosen.with_values(data={"texts": [text]})
        training = finish(new_run.start(chosen, folder, CPU, init_from=old, say=said.append)).training
        share = training.config.train.distillation
        assert loading.load(str(folder / "config.yaml")).train.distillation == share
        assert (training.teacher is not None) == (share != 0.0)
        assert planned == [share if known > 100 else "auto"]  # benchmarks include it
        assert len(baseline_scores) == 1
        return training, next((note for note in said if note.startswith("The base model needs ")), "")

    alike, said = job("alike.txt")
    assert alike.config.train.distillation == 0.3
    assert said.endswith(": distillation weight 0.3.")
    assert alike.baselines is not None
    counted = alike.baselines.validation.fields()["ngram"]["bits_per_character"]
    assert alike.teacher is not None
    bits = scoring.evaluate(alike.teacher.model, alike.vocabulary, alike.validation).score.bits_per_character
    assert f"The base model needs {bits:.4f} bits/char of this text, an n-gram model {counted:.4f}: " in said
    assert compared[-1] == pytest.approx(bits / counted)
    assert alike.config.train.learning_rate == 0.001
    other, said = job("other.txt")
    assert other.config.train.distillation == 0.0
    assert said.endswith(": no distillation.")
    asked, said = job("other.txt", "train.distillation=0.1")
    assert asked.config.train.distillation == 0.1
    assert re.search(r"an n-gram model \d+\.\d{4}\.$", said)  # compared all the same, for the learning rate
    both, said = job("other.txt", "train.distillation=0.1", "train.learning_rate=0.01")
    assert (both.config.train.distillation, said, compared[-1]) == (0.1, "", None)
    long_enough, said = job("alike.txt", known=100)
    assert (long_enough.config.train.distillation, said, compared[-1]) == (0.0, "", None)


def test_a_rollback_restores_the_state_of_the_teacher_as_well(here: Path) -> None:
    old = finish(fresh(["text.txt"], folder="old")).run.best
    (here / "few.txt").write_text("the fox 鸟 sat at the oats\n" * 40)
    training = finish(fine_tuned(old, "new", "train.steps=6", "train.eval_every=3")).training
    assert training.teacher is not None
    before = {name: tensor.clone() for name, tensor in training.tensors().items()}
    training.step()
    assert not torch.equal(training.tensors()["training/teacher_state/hidden"], before["training/teacher_state/hidden"])
    training._roll_back()
    for name, tensor in training.tensors().items():
        assert torch.equal(tensor, before[name]), name


def test_the_base_model_is_evaluated_first_and_stays_the_best_if_nothing_beats_it(here: Path) -> None:
    """Even after more evaluations than patience allows: a low learning rate may still win in the end."""
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
    assert "The model it started from is still the best" in summary.closing(finished, job.training.config, job.run.best)
    axis = model_page.page(job.run.last, model_file.read_header(job.run.last)).splitlines()[-1]
    assert axis.split() == ["0", "2", "4", "6", "8", "10", "12"]  # though the first has no training score
    gentle = finish(fine_tuned(old.run.best, "better", "train.steps=30", "train.patience=1", "train.distillation=0"))
    assert min(gentle.training.history, key=lambda one: one.judged_bits).step > 0
    # patience counts from the best trained weights
    stops = finish(fine_tuned(old.run.best, "patience", *harm, "train.patience=2"))
    after = [one.judged_bits for one in stops.training.history if one.step > 0]
    assert len(after) == 6 or after.index(min(after)) == len(after) - 3
    assert len(after) >= 3


def test_distillation_needs_a_base_model(here: Path) -> None:
    with pytest.raises(MisuseError, match=r"=0\.5 needs a model to learn from: name it with --init-from, or set"):
        fresh(["text.txt"], "train.distillation=0.5")
    assert not (here / "run").exists()
    training = finish(fresh(["text.txt"])).training
    assert training.config.train.distillation == 0.0
    with pytest.raises(MisuseError, match=r"train\.distillation=0\.5 cannot be changed on resume"):
        resume.resume(Run(Path("run")), CPU, settings=["train.distillation=0.5"])


def test_a_run_whose_teacher_is_missing_is_damaged(here: Path) -> None:
    old = finish(fresh(["text.txt"], folder="old")).run.best
    (here / "few.txt").write_text("the fox 鸟 sat at the oats\n" * 40)
    run = finish(fine_tuned(old, "new", "train.steps=3")).run
    tensors, header = model_file.read(run.last, training=True)[1], model_file.read_header(run.last)
    kept = {name: tensor for name, tensor in tensors.items() if "teacher/" not in name}
    model_file.write(run.last, header, kept)
    with pytest.raises(
        CharRNNError, match=r"new/last\.safetensors is damaged.*the model that it learns from is missing"
    ):
        resume.resume(run, CPU)


def test_a_run_from_before_distillation_existed_is_resumed(here: Path) -> None:
    run = finish(fresh(["text.txt"])).run
    header = model_file.read_header(run.last)
    before = replace(header, config=header.config.with_values(train={"distillation": "auto", "kernel": "auto"}))
    model_file.write(run.last, before, model_file.read(run.last, training=True)[1])
    training = finish(resume.resume(run, CPU)).training
    assert (training.config.train.distillation, training.config.train.kernel) == (0.0, "torch")


def test_fine_tuning_a_bidirectional_model_starts_from_all_its_weights(here: Path) -> None:
    """Every weight of both stacks and of all three heads is copied, whatever characters are new."""
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
        filters = Filters(temperature=0.8)
        sampler = Sampler(TorchModel(one), header.vocabulary, ["the ", "q"], 60, filters, seed=3, indices=[0, 1])
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


def test_held_out_is_the_test_split_or_else_validation(here: Path) -> None:
    for split, name, share in (("[0.8,0.1,0.1]", "test split", 0.1), ("[0.8,0.2,0]", "validation split", 0.2)):
        finish(fresh(["text.txt"], f"data.split={split}", folder=name))
        path = here / name / "best.safetensors"
        kind, part = training_corpus.held_out(model_file.read_header(path), path)
        assert kind == name
        assert part.text == TEXT[-len(part.text) :]
        assert len(part.text) == pytest.approx(len(TEXT) * share, abs=1)


def test_a_bad_text_leaves_no_folder(here: Path) -> None:
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
def test_a_missing_device_is_reported(name: str) -> None:
    if torch.cuda.is_available() and name == "cuda":
        pytest.skip("there is one")
    if torch.backends.mps.is_available() and name == "mps":
        pytest.skip("there is one")
    with pytest.raises(MisuseError, match=rf"{name}"):
        device.choose_device(name)


@pytest.mark.parametrize("kind", [RuntimeError, torch.cuda.DeferredCudaCallError])
@pytest.mark.parametrize("name", ["auto", "cuda"])
def test_a_gpu_without_kernels_in_torch_is_not_used(
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
            "cuda does not work here (CUDA error: no kernel image is available for execution on the device);"
            " using the CPU."
        ]
        return
    with pytest.raises(MisuseError, match=r"cuda does not work here \(CUDA error: no kernel image .* device\)\. Leave"):
        device.choose_device(name)


def test_a_run_of_a_gpu_that_no_longer_works_resumes_on_the_cpu(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = fresh(["text.txt"])
    job.training.step()
    job.training.settle()
    job.training.position.device = "cuda"
    job.training.save_last(job.run)
    job.run.release()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(device, "_defect", lambda device: "it is full")
    said: list[str] = []
    resumed = resume.resume(job.run, None, say=said.append)
    resumed.run.release()
    assert resumed.training.device == CPU
    assert "cuda does not work here (it is full); using the CPU." in said


def test_a_working_gpu_is_used_without_tf32_and_deterministically(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(device, "_defect", lambda device: None)
    before = device.allow_tf32(True)
    try:
        assert device.choose_device("auto") == torch.device("cuda")
        assert not device.allow_tf32(before)
    finally:
        device.allow_tf32(before)
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


def test_a_run_on_a_folder_is_resumed_though_it_lies_in_that_folder(here: Path) -> None:
    job = finish(fresh(["."]))
    assert job.training.config.data.texts == [str(here / "text.txt")]
    assert (here / "run" / "samples.txt").exists()
    assert finish(resume.resume(Run(Path("run")), CPU, settings=["train.steps=8"])).training.position.step == 8
    again = finish(fresh(["."], folder="again"))
    assert again.training.config.data.texts == [str(here / "text.txt")]  # samples.txt is not read


def test_a_length_that_is_already_over_is_refused(here: Path) -> None:
    finish(fresh(["text.txt"]))
    before = (here / "run" / "config.yaml").read_text()
    with pytest.raises(MisuseError, match="has done 6 steps already, and this would be 3"):
        resume.resume(Run(Path("run")), CPU, settings=["train.steps=3"])
    assert (here / "run" / "config.yaml").read_text() == before


def test_moving_the_text_does_not_reset_patience(here: Path) -> None:
    job = fresh(["text.txt"])
    job.training.position.stale = 3
    job.training.save_last(job.run)
    job.run.release()
    (here / "text.txt").rename(here / "else.txt")
    resumed = resume.resume(Run(Path("run")), CPU, texts=["else.txt"])
    resumed.run.release()
    assert resumed.training.position.stale == 3


def test_a_training_split_that_is_too_short_is_reported(here: Path) -> None:
    with pytest.raises(CharRNNError, match="leaves 9 characters to train on"):
        fresh(["text.txt"], "data.split=[0.01,0.49,0.5]")


@pytest.mark.parametrize(("seconds", "counted"), [(30, False), (40, True)])
def test_baselines_that_would_take_more_than_a_twentieth_of_the_time_are_left_to_evaluate(
    here: Path, monkeypatch: pytest.MonkeyPatch, seconds: int, counted: bool
) -> None:
    """They were computed after the time had been planned, and did not count."""
    now, compute = 0.0, baselines.compute

    def perf_counter() -> float:
        nonlocal now
        now += 1e-6
        return now

    def slow_compute(corpus: Corpus, ngrams: bool = True, **more: Any) -> scores.BaselineScores:
        nonlocal now
        now += 1e-3 * len(corpus.training) if ngrams else 0.0
        return compute(corpus, ngrams=ngrams, **more)

    monkeypatch.setattr(new_run, "MEASURED_CHARACTERS", 100)  # of 853: all take twice 0.1 x 8.53 seconds, or 1.71
    monkeypatch.setattr("time.perf_counter", perf_counter)
    monkeypatch.setattr(baselines, "compute", slow_compute)
    said: list[str] = []
    job = fresh(["text.txt"], f"train.time={seconds}s", say=said.append)
    job.run.release()
    assert job.training.baselines is not None
    assert (job.training.baselines.validation.ngram is not None) == counted
    assert any("charrnn evaluate computes them" in note for note in said) != counted
    assert job.training.position.seconds == pytest.approx(0.953 if counted else 0.1, abs=0.01)


def test_a_plan_that_fails_leaves_no_folder(here: Path) -> None:
    with pytest.raises(CharRNNError, match="Not enough memory"):
        fresh(["text.txt"], "model.hidden_size=10000000", folder="huge")
    assert not (here / "huge").exists()


def test_what_becomes_of_invalid_bytes_is_stored_and_done_again(here: Path) -> None:
    said: list[str] = []
    (here / "text.txt").write_bytes(TEXT.encode() + b"caf\xe9\n")
    finish(fresh(["text.txt"], "data.encoding_errors=replace", say=said.append))
    assert said.count("1 byte not UTF-8: replaced by U+FFFD.") == 1
    assert "encoding_errors: replace" in (here / "run" / "config.yaml").read_text()
    header = model_file.read_header(Path("run/best.safetensors"))
    assert training_corpus.held_out(header, Path("run/best.safetensors"))[1].text.endswith("caf\ufffd\n")
    assert finish(resume.resume(Run(Path("run")), CPU, settings=["train.steps=8"])).training.position.step == 8


@pytest.mark.parametrize("encoding", ["utf-8", "big5", "iso2022_jp", "iso2022_kr", "utf-7"])
def test_the_copy_of_standard_input_with_invalid_bytes_is_read_as_the_same(here: Path, encoding: str) -> None:
    """Many encodings have no U+FFFD: a copy encoded anew ended in a traceback, or was read as another text."""
    raw = ("天地玄, 宇宙.\n" * 30).encode(encoding) + b"ab\x1b\xd3cd\xff\n"
    finish(fresh(["-"], f"data.encoding={encoding}", "data.encoding_errors=replace", stdin=io.BytesIO(raw)))
    assert (here / "run" / "corpus.txt").read_bytes() == raw
    best = here / "run" / "best.safetensors"
    training_corpus.held_out(model_file.read_header(best), best)
    assert finish(resume.resume(Run(Path("run")), CPU, settings=["train.steps=8"])).training.position.step == 8


def test_a_folder_is_resumed_with_the_files_that_its_globs_chose(here: Path) -> None:
    (here / "texts").mkdir()
    (here / "text.txt").rename(here / "texts" / "a.PY")
    (here / "texts" / "b.txt").write_text("another text\n" * 20)
    job = finish(fresh(["texts"], "data.glob=*.py"))
    assert job.training.config.data.texts == [str(here / "texts" / "a.PY")]
    config = loading.load("run/config.yaml")
    assert (config.data.glob, config.data.texts) == (["*.py"], [str(here / "texts" / "a.PY")])
    (here / "texts").rename(here / "moved")
    resumed = finish(resume.resume(Run(Path("run")), CPU, texts=["moved"], settings=["train.steps=8"]))
    assert resumed.training.config.data.texts == [str(here / "moved" / "a.PY")]


@pytest.mark.parametrize("cell", ["lstm", "ngram"])
def test_held_out_lines_that_also_stand_in_the_training_split_are_counted_in_the_model_file(
    here: Path, cell: str
) -> None:
    """A list with duplicates scored 2.44 bits/char where without them it scores 2.92, without a word."""
    (here / "text.txt").write_text("".join(f"line {number % 40}\n" for number in range(120)))
    said: list[str] = []
    if cell == "ngram":
        settings = ["model.cell=ngram", "data.documents=line", "train.seed=1"]
        config = loading.load(None, settings).with_values(data={"texts": ["text.txt"]})
        job = new_run.start_counting(config, Path("run"), say=said.append)
        list(job.learn(lambda: False))
        job.run.release()
    else:
        finish(fresh(["text.txt"], "data.documents=line", say=said.append))
    header = model_file.read_header(Path("run/best.safetensors"))
    assert header.corpus.repeated is not None
    validation = header.corpus.repeated["validation"]
    assert 0 < validation.repeated <= validation.documents
    told = f"{validation.repeated} of {validation.documents} validation lines ({validation.share:.1%})"
    assert any(told in message and "sort -u" in message for message in said)
    page = " ".join(model_page.page(Path("run/best.safetensors"), header).split())
    assert f"repeated {told}" in page
    fields = model_page.fields(Path("run/best.safetensors"), header)["corpus"]["repeated"]["validation"]
    assert fields == {"documents": validation.documents, "repeated": validation.repeated}


def test_a_file_of_an_earlier_version_has_no_count_of_repeated_documents(here: Path) -> None:
    finish(fresh(["text.txt"]))
    header = model_file.read_header(Path("run/best.safetensors"))
    assert header.corpus.repeated is None
    assert "repeated" not in model_page.page(Path("run/best.safetensors"), header)
