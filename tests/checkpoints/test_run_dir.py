"""Claims about run folders: found, named, locked, truncated, never overwritten."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from charrnn.checkpoints import run_dir
from charrnn.checkpoints.run_dir import Run
from charrnn.errors import CharRNNError, MisuseError


def make(folder: Path, *names: str, age: float = 0.0) -> Path:
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).write_bytes(b"x")
        os.utime(folder / name, (1e9 - age, 1e9 - age))
    return folder


def claimed(stem: str) -> str:
    run = run_dir.claim(stem)
    run.release()
    return run.folder.as_posix()


def test_the_default_folder_gets_a_number_if_it_is_taken(here: Path) -> None:
    assert claimed("poems") == "checkpoints/poems"
    assert claimed("poems") == "checkpoints/poems"  # no training started there
    make(here / "checkpoints/songs", "best.safetensors")
    assert claimed("songs") == "checkpoints/songs-2"
    make(here / "checkpoints/songs-3", "metrics.jsonl")
    (here / "checkpoints/songs-2" / "metrics.jsonl").touch()
    assert claimed("songs") == "checkpoints/songs-4"


def test_two_trainings_started_together_claim_two_folders(here: Path) -> None:
    one, other = run_dir.claim("poems"), run_dir.claim("poems")
    assert (one.folder.name, other.folder.name) == ("poems", "poems-2")
    one.discard()
    other.discard()
    assert not list((here / "checkpoints").iterdir())


def test_an_empty_folder_is_free_and_a_full_one_is_not(here: Path) -> None:
    (here / "empty").mkdir()
    Run(here / "empty").create()
    full = make(here / "full", "last.safetensors")
    with pytest.raises(MisuseError, match=r"full exists already\. Continue it with --resume -m .*full, or"):
        Run(full).create()


def test_tokens_are_leftovers_beside_a_lock_and_the_users_without_one(here: Path) -> None:
    folder = here / "run"
    folder.mkdir()
    (folder / "corpus.safetensors").write_bytes(b"x")
    with pytest.raises(MisuseError, match="exists already"):
        Run(folder).check_free()
    (folder / ".lock").touch()
    Run(folder).check_free()


def test_the_newest_run_is_the_default(here: Path) -> None:
    make(here / "checkpoints/old", "best.safetensors", age=50)
    make(here / "checkpoints/new", "best.safetensors", "last.safetensors", age=5)
    make(here / "checkpoints/started", "config.yaml")
    assert [run.name for run in run_dir.find_runs()] == ["new", "old"]
    assert run_dir.find_model(None) == Path("checkpoints/new/best.safetensors")


def test_a_model_is_a_folder_a_file_or_a_name(here: Path) -> None:
    folder = make(here / "checkpoints/诗 词", "best.safetensors")
    for name in (str(folder), str(folder / "best.safetensors"), "诗 词"):
        assert run_dir.find_model(name).samefile(folder / "best.safetensors")


def test_before_the_first_evaluation_the_last_model_is_found(here: Path) -> None:
    make(here / "checkpoints/young", "last.safetensors")
    assert run_dir.find_model("young") == Path("checkpoints/young/last.safetensors")


def test_no_model_says_how_to_make_one(here: Path) -> None:
    with pytest.raises(CharRNNError, match="Make one with: charrnn train TEXT"):
        run_dir.find_model(None)
    with pytest.raises(CharRNNError, match="Start one with: charrnn train TEXT"):
        run_dir.find_run(None)
    make(here / "checkpoints/poems", "best.safetensors")
    with pytest.raises(CharRNNError, match=r"nowhere: no such model.*Runs here: poems\."):
        run_dir.find_model("nowhere")


def test_a_run_is_trained_by_one_process_at_a_time(here: Path) -> None:
    make(here / "run")
    one, other = Run(here / "run"), Run(here / "run")
    one.lock()
    with pytest.raises(CharRNNError, match="is being trained by another process"):
        other.lock()
    one.release()
    other.lock()
    other.release()


def test_growing_files_are_truncated_to_the_checkpoint(here: Path) -> None:
    run = Run(make(here / "run"))
    run.append_metrics({"step": 1})
    run.append_sample("step 1", "诗")
    lengths = run.lengths()
    run.append_metrics({"step": 2})
    run.append_sample("step 2", "词")
    run.truncate(lengths)
    assert run.metrics.read_text() == '{"step": 1}\n'
    assert run.samples.read_text(encoding="utf-8") == "--- step 1 ---\n诗\n\n"


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_reported_in_a_sentence(here: Path) -> None:
    (here / "closed").mkdir(mode=0o500)
    with pytest.raises(CharRNNError, match="cannot be written"):
        Run(here / "closed" / "run").create()


def test_a_file_in_the_way_is_reported_in_a_sentence(here: Path) -> None:
    with pytest.raises(CharRNNError, match=r"cannot be written|exists already"):
        Run(here / "text.txt" / "run").create()


def test_a_folder_of_texts_does_not_hide_the_run_of_the_same_name(here: Path) -> None:
    make(here / "src", "a.txt")
    make(here / "checkpoints/src", "best.safetensors", "last.safetensors")
    assert run_dir.find_model("src") == Path("checkpoints/src/best.safetensors")
    assert run_dir.find_run("src").folder == Path("checkpoints/src")


def test_a_text_does_not_hide_the_run_of_the_same_name(here: Path) -> None:
    make(here / "checkpoints/my.notes", "best.safetensors", "last.safetensors")
    (here / "my.notes").write_text("a text without an ending\n")
    assert run_dir.find_model("my.notes") == Path("checkpoints/my.notes/best.safetensors")
    assert run_dir.find_run("my.notes").folder == Path("checkpoints/my.notes")
    (here / "model").write_bytes(b"x")  # a model file may have any name
    assert run_dir.find_model("model") == Path("model")


def test_a_model_in_a_deep_folder_is_found_by_its_whole_path(here: Path) -> None:
    """The longest name of a file was once taken for that of a path."""
    folder = make(here.joinpath(*["a deep folder"] * 20), "best.safetensors", "last.safetensors")
    assert run_dir.find_model(str(folder)) == folder / "best.safetensors"
    assert run_dir.find_model(str(folder / "best.safetensors")) == folder / "best.safetensors"
    assert run_dir.find_run(str(folder)).folder == folder


def test_a_name_that_is_too_long_is_reported_in_a_sentence(here: Path) -> None:
    with pytest.raises(CharRNNError, match="no such model"):
        run_dir.find_model("x" * 5_000)
    with pytest.raises(CharRNNError, match="no run to resume there"):
        run_dir.find_run("x" * 5_000)


def test_a_long_name_is_not_taken_for_the_run_that_its_beginning_names(here: Path) -> None:
    folder = Path("/".join(["d" * 50] * 3)) / ("d" * 47)  # 200 characters
    for run in (folder, folder / "other"):
        run.mkdir(parents=True)
        (run / run_dir.LAST).touch()
    assert run_dir.find_model(str(folder / "other")) == folder / "other" / run_dir.LAST
    assert run_dir.find_run(str(folder / "other")).folder == folder / "other"


def test_a_text_does_not_shadow_the_run_of_its_name(here: Path) -> None:
    Path("poems").write_text("a text")
    run = Path("checkpoints/poems")
    run.mkdir(parents=True)
    (run / run_dir.LAST).touch()
    assert run_dir.find_model("poems") == run / run_dir.LAST
    assert run_dir.find_run("poems").folder == run


def test_a_file_named_as_a_model_is_that_file(here: Path) -> None:
    Path("poems.safetensors").touch()
    run = Path("checkpoints/poems.safetensors")
    run.mkdir(parents=True)
    (run / run_dir.LAST).touch()
    assert run_dir.find_model("poems.safetensors") == Path("poems.safetensors")


def test_a_folder_that_cannot_be_locked_ends_the_search_for_a_free_one(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_descriptors(self: Path, *arguments: Any) -> Any:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(Path, "open", without_descriptors)
    with pytest.raises(CharRNNError, match="Too many open files"):
        run_dir.claim("poems")
    assert len(list(Path("checkpoints").iterdir())) == 1


def test_a_folder_that_one_may_not_look_into_hides_no_other_run(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("closed", "open"):
        run = Path("checkpoints") / name
        run.mkdir(parents=True)
        (run / run_dir.BEST).touch()
    looked = Path.stat

    def refused(self: Path, **options: Any) -> os.stat_result:
        if self.parent.name == "closed":
            raise PermissionError(errno.EACCES, "Permission denied")
        return looked(self, **options)

    monkeypatch.setattr(Path, "stat", refused)
    assert run_dir.find_runs() == [Path("checkpoints/open")]
