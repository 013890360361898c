"""The recipes of the cookbook for tables do what they say."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from charrnn.data.documents import split_documents

GUIDE = Path(__file__).resolve().parent.parent.parent / "docs" / "guide.md"
SEPARATOR = "\n<|endoftext|>\n"
CELLS = ["one\ntwo", 'a "quoted", cell', "", "C:\\temp\\n", "\u6625\u7720\n\n\u4e0d\u89ba\u6689"]


def recipe(program: str) -> str:
    """Give the program of the recipe that begins with a word."""
    section = GUIDE.read_text(encoding="utf-8").partition("### Tables as documents")[2]
    found = re.search(rf"^{program} '(.*?)' ", section.replace("-c ", "").replace("-j ", ""), re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


def test_a_column_of_a_csv_file_becomes_documents(tmp_path: Path) -> None:
    import csv

    with (tmp_path / "table.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerows([["id", "text"], *enumerate(CELLS)])
    with (tmp_path / "table.csv").open("rb") as file:
        command = [sys.executable, "-X", "utf8", "-c", recipe("python3")]
        text = subprocess.run(command, stdin=file, capture_output=True, check=True).stdout.decode()
    assert list(split_documents(text.replace("\r\n", "\n"), SEPARATOR)) == CELLS


@pytest.mark.skipif(shutil.which("jq") is None, reason="jq is not installed")
def test_a_field_of_json_lines_becomes_documents(tmp_path: Path) -> None:
    import json

    lines = "".join(json.dumps({"id": number, "text": cell}) + "\n" for number, cell in enumerate(CELLS))
    command = ["jq", "-j", recipe("jq")]
    text = subprocess.run(command, input=lines.encode(), capture_output=True, check=True).stdout.decode()
    assert list(split_documents(text, SEPARATOR)) == CELLS
