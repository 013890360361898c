"""A folder stands for the files in it whose names match, and what is left out is told, counted by reason."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from charrnn.data import folders, text_files
from charrnn.errors import CharRNNError


def make(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"{name}\n", encoding="utf-8")


def found(folder: Path, *globs: str) -> list[str]:
    files = folders.find(folder, globs or folders.GLOB).files
    return [Path(file).relative_to(folder).as_posix() for file in files]


def notes(folder: Path, globs: list[str] | None) -> list[str]:
    said: list[str] = []
    text_files.find_files([str(folder)], globs, said.append)
    return [note.removeprefix(f"{folder}: ") for note in said]


def test_endings_match_in_any_case_and_compressed(tmp_path: Path) -> None:
    """A folder from a disk of DOS days, with B.TXT in it, was once read without that file."""
    make(tmp_path, "a.txt", "B.TXT", "c/d.Txt", "e.txt.gz", "f.TXT.XZ", "g.md", "txt", "h.txt.bak")
    assert found(tmp_path) == ["B.TXT", "a.txt", "c/d.Txt", "e.txt.gz", "f.TXT.XZ"]


def test_globs_choose_other_files(tmp_path: Path) -> None:
    make(tmp_path, "a.py", "src/b.PY", "src/c.pyi", "src/d.py.gz", "e.txt")
    assert found(tmp_path, "*.py") == ["a.py", "src/b.PY", "src/d.py.gz"]
    assert found(tmp_path, "*.py", "*.pyi") == ["a.py", "src/b.PY", "src/c.pyi", "src/d.py.gz"]
    assert found(tmp_path, "src/*") == ["src/b.PY", "src/c.pyi", "src/d.py.gz"]


def test_what_is_left_out_is_counted_by_reason(tmp_path: Path) -> None:
    make(
        tmp_path,
        "a.txt",
        "x/a.md",
        "x/b.md",
        "c.csv",
        "d.csv",
        "e.json",
        "f.json",
        "g.yaml",
        "README",
        ".git/f.txt",
        ".hidden.txt",
    )
    make(tmp_path, "run/samples.txt", "run/.lock")
    assert notes(tmp_path, None) == [
        "1 file to read. Left out: 8 with other names (2 .csv, 2 .json, 2 .md, 2 others), 2 hidden, 1 run folder."
    ]
    assert notes(tmp_path, ["*.txt"])[0].endswith("run folder. --glob '*.csv' would take others.")


def test_a_folder_in_which_all_is_read_needs_no_note(tmp_path: Path) -> None:
    make(tmp_path, "a.txt", "b/c.txt")
    assert notes(tmp_path, ["*.txt"]) == []


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege there")
def test_linked_files_are_read_and_linked_folders_left_out(tmp_path: Path) -> None:
    make(tmp_path, "here/a.txt", "there/b.txt")
    (tmp_path / "here" / "linked").symlink_to(tmp_path / "there", target_is_directory=True)
    (tmp_path / "here" / "b.txt").symlink_to(tmp_path / "there" / "b.txt")
    (tmp_path / "here" / "c.txt").symlink_to(tmp_path / "nowhere")
    assert found(tmp_path / "here") == ["a.txt", "b.txt"]
    assert notes(tmp_path / "here", None) == ["2 files to read. Left out: 1 linked folder, 1 dangling link."]


def test_what_cannot_be_read_is_left_out_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "a.txt", "b.txt")
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "a.txt")
    assert found(tmp_path) == ["b.txt"]
    assert notes(tmp_path, None) == ["1 file to read. Left out: 1 unreadable."]


def test_what_the_system_says_nothing_of_is_unreadable_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder that may be listed but not searched every file was a traceback, also for Python's own `is_file`."""
    make(tmp_path, "a.txt", "closed/b.txt", "closed/c.md", "secret/d.txt")
    scandir, stat = os.scandir, os.stat

    def scan(folder: str) -> Any:
        if Path(folder).name == "secret":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), folder)
        return scandir(folder)

    def say(path: Any, **options: Any) -> os.stat_result:
        if Path(path).parent.name == "closed":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return stat(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", scan)
        patch.setattr(os, "stat", say)
        patch.setattr(Path, "stat", say)
        found = folders.find(tmp_path)
    assert [Path(file).name for file in found.files] == ["a.txt"]
    assert (dict(found.left_out), dict(found.endings)) == ({"unreadable": 2}, {".md": 1})


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may search every folder")
def test_a_folder_that_may_be_listed_but_not_searched_is_no_traceback(tmp_path: Path) -> None:
    make(tmp_path, "a.txt", "closed/b.txt")
    (tmp_path / "closed").chmod(0o644)
    try:
        assert notes(tmp_path, None) == ["1 file to read. Left out: 1 unreadable."]
    finally:
        (tmp_path / "closed").chmod(0o755)


@pytest.mark.skipif(os.name == "nt", reason="paths are shorter there")
@pytest.mark.parametrize("name", ["d", "dddd"])
def test_folders_may_be_nested_deeply(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """os.walk calls itself for each before Python 3.12; and a path may become longer than the system allows."""
    monkeypatch.chdir(tmp_path)
    make(tmp_path, "a.txt")
    for depth in range(1_200):
        os.mkdir(name)
        os.chdir(name)
        if depth in {9, 1_199}:
            Path("b.txt").write_text("b\n")
    try:
        found = folders.find(tmp_path)
    finally:  # pytest could not
        Path("b.txt").unlink()
        for _ in range(1_200 - 10):
            os.chdir("..")
            os.rmdir(name)
    assert {str(tmp_path / "a.txt"), str(tmp_path.joinpath(*[name] * 10, "b.txt"))} <= set(found.files)
    assert len(found.files) + found.left_out["unreadable"] == 3


def test_a_folder_without_a_text_says_what_there_is(tmp_path: Path) -> None:
    make(tmp_path, "a.md", "b.md", "c.rst", "d")
    with pytest.raises(CharRNNError) as caught:
        text_files.find_files([str(tmp_path)], ["*.txt"])
    assert str(caught.value) == (
        f"{tmp_path}: no .txt file in this folder or below; there are 2 .md, 1 .rst, 1 without ending."
        " Take others with --glob, e.g. --glob '*.md'."
    )
    with pytest.raises(CharRNNError, match=r"no file like \*\.py or \*\.pyi in this folder or below"):
        text_files.find_files([str(tmp_path)], ["*.py", "*.pyi"])
    # where there is no --glob, as in charrnn evaluate
    with pytest.raises(CharRNNError, match=r"1 \.rst, 1 without ending\. Name a file or another folder\."):
        text_files.find_files([str(tmp_path)])
