"""Claims about the text that a model file names: read only if it is a regular file that can be that text."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest

from charrnn.checkpoints import model_file, training_corpus
from charrnn.errors import CharRNNError


def naming(trained: Path, text: str) -> Path:
    """Write a copy of a model file that names another text; return its path."""
    header, tensors = model_file.read(trained / "best.safetensors")
    copy = trained.parent / "copy.safetensors"
    model_file.write(copy, replace(header, config=header.config.with_values(data={"texts": [text]})), tensors)
    return copy


def find(path: Path) -> None:
    training_corpus.find(model_file.read_header(path), path, "Name a text.")


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="devices of POSIX")
@pytest.mark.parametrize("text", ["/dev/zero", "/dev/tty", "/dev"])
def test_a_device_or_a_folder_is_no_text(trained: Path, text: str) -> None:
    with pytest.raises(CharRNNError, match=r"is no regular file, so it is not read\. Name a text\."):
        find(naming(trained, text))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes of POSIX")
def test_a_pipe_is_not_waited_for(trained: Path) -> None:
    os.mkfifo("pipe")
    with pytest.raises(CharRNNError, match="is no regular file"):
        find(naming(trained, str(Path("pipe").absolute())))


@pytest.mark.parametrize("name", ["//server/share/text.txt", "\\\\server\\share\\text.txt"])
def test_a_share_on_the_network_is_not_asked_for(trained: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = naming(trained, name)

    def asked(self: Path) -> None:
        raise AssertionError(str(self))

    header = model_file.read_header(path)
    monkeypatch.setattr(Path, "stat", asked)
    with pytest.raises(CharRNNError, match="is not on this machine, so it is not read"):
        training_corpus.check_held_out(header, path)


def test_of_a_longer_text_no_more_is_read_than_shows_that(trained: Path) -> None:
    longer = Path("longer.txt")
    longer.write_text("text\n" * 100_000)
    path = naming(trained, str(longer.absolute()))
    longer.chmod(0)
    with pytest.raises(CharRNNError, match=r"longer\.txt: the text has changed since"):
        find(path)


def test_a_text_that_one_may_not_look_at_is_not_gone(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, header = trained / "best.safetensors", model_file.read_header(trained / "best.safetensors")

    def refused(self: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "stat", refused)
    with pytest.raises(CharRNNError, match=r"cannot be read \(Permission denied\)"):
        training_corpus.check_held_out(header, path)
