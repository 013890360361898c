"""Claims about what is shown: no name in a file or an argument is a command to the terminal."""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path
from typing import Any

import pytest

from charrnn.showable import showable, showable_message, shown
from tests.conftest import Charrnn, settings

HOSTILE = "\x1b]0;owned\x07\x9b2J\r\u202etxt\x00\ud800"
OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u061c\u2028-\u202e\u2066-\u2069]")


def test_what_a_terminal_obeys_is_escaped() -> None:
    assert showable("a\x1b[2J\x07\x9b\t\u202e字\n\ud800") == "a\\x1b[2J\\x07\\x9b\\t\\u202e字\n\\ud800"


def test_a_name_stands_on_one_line_and_a_long_one_loses_its_middle() -> None:
    assert shown("a\nb") == "a\\nb"
    assert shown("a" * 150 + "b" * 150) == "a" * 100 + "..." + "b" * 100


def test_a_message_has_an_end() -> None:
    assert showable_message("a\n" * 100) == "a\n" * 60 + "... and 41 more lines."
    assert showable_message("a" * 3_000 + "\nb") == "a" * 2_000 + "...\nb"


def hostile(trained: Path, change: Any) -> str:
    """Write a model file whose record is changed by a function; return its path."""
    raw = (trained / "best.safetensors").read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    tree = json.loads(raw[8 : 8 + length])
    content = json.loads(tree["__metadata__"]["charrnn"])
    change(tree, content)
    tree["__metadata__"]["charrnn"] = json.dumps(content)
    header = json.dumps(tree).encode()
    path = trained.parent / "hostile.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + raw[8 + length :])
    return str(path)


def corpus_name(tree: Any, content: Any) -> None:
    content["corpus"]["name"] = HOSTILE.replace("\x00", "")


def texts(tree: Any, content: Any) -> None:
    content["config"]["data"]["texts"] = [HOSTILE.replace("\x00", "")]


def encoding(tree: Any, content: Any) -> None:
    content["config"]["data"]["encoding"] = HOSTILE.replace("\x00", "")


def setting(tree: Any, content: Any) -> None:
    content["config"]["train"][HOSTILE] = 1


def tensor(tree: Any, content: Any) -> None:
    tree[HOSTILE] = tree.pop("head")


def characters(tree: Any, content: Any) -> None:
    content["vocabulary"]["characters"] = (
        "\n" + HOSTILE[:-1].replace("\r", "") + content["vocabulary"]["characters"][20:]
    )


@pytest.mark.parametrize("change", [corpus_name, texts, encoding, setting, tensor, characters])
def test_nothing_in_a_model_file_is_a_command_to_the_terminal(change: Any, trained: Path, charrnn: Charrnn) -> None:
    model = hostile(trained, change)
    for command in (
        ["info", "-m", model],
        ["evaluate", "-m", model],
        ["evaluate", "-m", model, "text.txt"],
        ["sample", "-m", model, "-n", "1", "--report"],
        ["train", "text.txt", "--init-from", model, *settings("train.steps=5")],
    ):
        result = charrnn(*command)
        said = result.stderr + ("" if command[0] in {"sample", "train"} else result.stdout)
        assert said
        assert not OBEYED.search(said.replace("\r", "") if command[0] == "train" else said), (command, said)


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "text.txt", "--device", HOSTILE],
        ["train", "text.txt", "--encoding", HOSTILE],
        ["train", "text.txt", "-s", f"model.{HOSTILE}=1"],
        ["train", "text.txt", "-s", f"model.cell={HOSTILE}"],
        ["train", "text.txt", "-c", HOSTILE],
        ["train", "text.txt", "--time", HOSTILE],
        ["train", "text.txt", "--seed", HOSTILE],
        ["train", f"{HOSTILE}.txt"],
        ["train", "--resume", "-m", HOSTILE],
        ["train", f"--{HOSTILE}"],
        ["sample", "-m", HOSTILE],
        ["evaluate", HOSTILE],
        ["info", "-m", HOSTILE],
        [HOSTILE],
        [f"--{HOSTILE}"],
    ],
    ids=lambda arguments: " ".join(arguments).replace(HOSTILE, "HOSTILE"),
)
def test_no_argument_is_a_command_to_the_terminal(arguments: list[str], here: Path, charrnn: Charrnn) -> None:
    result = charrnn(*(argument.replace("\x00", "") for argument in arguments))
    assert result.exit_code in {1, 2}
    assert "Error: " in result.stderr
    assert not OBEYED.search(result.stderr)


def test_a_sample_that_is_shown_while_training_is_no_command_to_the_terminal(here: Path, charrnn: Charrnn) -> None:
    Path("hostile.txt").write_text("\x1b[2J\x07\u202e\x9b" * 300, encoding="utf-8")
    result = charrnn("train", "hostile.txt", *settings("train.steps=10"), "--samples", "3")
    assert result.exit_code == 0
    assert "\\x1b" in result.stderr
    assert not OBEYED.search(result.stderr)
