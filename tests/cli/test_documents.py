"""Claims about whole documents on the command line and in Python, of models that have memorised a few."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import charrnn as package
from charrnn.checkpoints import inference
from charrnn.data.documents import MOST, Documents
from charrnn.errors import MisuseError
from tests.cli.test_main import assert_sentence
from tests.conftest import Charrnn
from tests.scripted_model import scripted

Know = Callable[[str, str, list[str]], None]
POEMS = ["spring\nrain", "autumn"]
BOUNDARIES = {"line": "\n", "blank-line": "\n\n", "separator": "\n%\n", "file": "\0"}


@pytest.fixture
def know(runs: dict[str, Path], here: Path, monkeypatch: pytest.MonkeyPatch) -> Know:
    """Have every model file opened as one that writes the given documents."""
    (here / "checkpoints").mkdir()
    (here / "checkpoints" / "poems").symlink_to(runs["causal"])

    def change(kind: str, boundary: str, documents: list[str]) -> None:
        monkeypatch.setattr(inference, "load", lambda _, **__: scripted(documents, boundary))
        monkeypatch.setattr(inference, "documents", lambda _: Documents(kind, boundary))

    return change


def printed(charrnn: Charrnn, *arguments: str, stdin: str | None = None) -> str:
    result = charrnn(*arguments, stdin=stdin)
    assert result.exit_code == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("line", "{}\n{}\n{}\n"),
        ("blank-line", "{}\n\n{}\n\n{}\n"),
        ("separator", "{}\n%\n{}\n%\n{}\n"),
        ("file", "{}\n\n{}\n\n{}\n"),
    ],
)
def test_several_documents_are_set_apart_as_in_their_text(
    kind: str, expected: str, know: Know, charrnn: Charrnn, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = ["spring", "autumn"] if kind == "line" else POEMS
    know(kind, BOUNDARIES[kind], documents)
    lines = printed(charrnn, "sample", "-k", "3", "--seed", "1", "--json").splitlines()
    made = [json.loads(line)["text"] for line in lines]
    assert set(made) == set(documents)
    assert {json.loads(line)["ended_by"] for line in lines} == {"document"}
    for batch in (2, 256):
        monkeypatch.setattr("charrnn.cli.sample_output._BATCH", batch)
        assert printed(charrnn, "sample", "-d", "-k", "3", "--seed", "1") == expected.format(*made)
    best = [
        json.loads(line)["text"] for line in printed(charrnn, "sample", "--beam", "2", "-k", "2", "--json").splitlines()
    ]
    assert set(best) == set(documents)
    assert printed(charrnn, "sample", "--beam", "2", "-k", "2") == expected.split("{}")[1].join(best) + "\n"


@pytest.mark.parametrize("kind", BOUNDARIES)
def test_one_document_is_streamed_and_ends_in_one_newline(kind: str, know: Know, charrnn: Charrnn) -> None:
    know(kind, BOUNDARIES[kind], ["spring"])
    assert printed(charrnn, "sample") == "spring\n"
    assert printed(charrnn, "sample", "-p", "spr") == "spring\n"
    assert printed(charrnn, "sample", "-p", "spr", "--no-prime") == "ing\n"
    assert printed(charrnn, "sample", "--beam", "1") == "spring\n"


def test_a_length_asks_for_characters_unless_a_document_is_named(know: Know, charrnn: Charrnn) -> None:
    know("blank-line", "\n\n", ["spring"])
    assert printed(charrnn, "sample", "-n", "10") == "spring\n\nsp\n"
    assert printed(charrnn, "sample", "-n", "10", "-d") == "spring\n"
    assert printed(charrnn, "sample", "-n", "10", "--beam", "1") == "spring\n\nsp\n"
    know("none", "\n", ["spring"])
    assert len(printed(charrnn, "sample")) == 500 + 1


def test_a_document_that_does_not_end_is_told(know: Know, charrnn: Charrnn) -> None:
    know("blank-line", "\n\n", ["spring"])
    for arguments in (["-k", "2"], ["--json"], [], ["--beam", "1"], ["--each-line", "--json"]):
        result = charrnn("sample", "-d", "-n", "3", *arguments, stdin="\n")
        assert "is no whole document: it did not end within 3 characters (-n)." in result.stderr
    assert json.loads(printed(charrnn, "sample", "-d", "-n", "3", "--json"))["ended_by"] == "length"
    assert "no whole document" not in charrnn("sample", "-n", "3").stderr


def test_until_may_end_a_document_before(know: Know, charrnn: Charrnn) -> None:
    know("blank-line", "\n\n", ["spring\nrain"])
    assert printed(charrnn, "sample", "--until", "\n") == "spring\n"
    assert printed(charrnn, "sample", "-d", "--until", "ri", "--keep-until") == "spri\n"


def test_lines_are_answered_by_documents_as_json(know: Know, charrnn: Charrnn) -> None:
    know("blank-line", "\n\n", ["spring\nrain", "autumn"])
    assert printed(charrnn, "sample", "--each-line", stdin="sp\nau\n") == "spring\nautumn\n"
    assert_sentence(charrnn("sample", "--each-line", "-d", stdin="sp\n"), 2, "add --json")
    rows = [
        json.loads(row)
        for row in printed(charrnn, "sample", "--each-line", "-d", "--json", stdin="sp\n").split("\n")[:-1]
    ]
    assert [(row["prime"] + row["text"], row["ended_by"]) for row in rows] == [("spring\nrain", "document")]
    searched = json.loads(printed(charrnn, "sample", "--each-line", "-d", "--json", "--beam", "1", stdin="sp\n"))
    assert (searched["text"], searched["ended_by"]) == ("ring\nrain", "document")
    know("line", "\n", ["spring"])
    assert printed(charrnn, "sample", "--each-line", "-d", stdin="sp\n\n") == "spring\nspring\n"


@pytest.mark.parametrize(("kind", "told"), [("none", "-c poems"), ("blank-line", "Train it again")])
def test_a_model_that_knows_no_documents_says_what_to_do(kind: str, told: str, know: Know, charrnn: Charrnn) -> None:
    know(kind, "\n", ["spring"])
    assert_sentence(charrnn("sample", "-d"), 2, told)
    assert_sentence(
        charrnn("evaluate", "--per-document", "-", stdin="spring"), 2, told.replace("-c poems", "--per-line")
    )
    with pytest.raises(MisuseError, match="until" if kind == "none" else told):
        package.load("poems").sample(document=True)
    assert len(package.load("poems").sample()) == 500


@pytest.mark.parametrize("other", [["--infill", "a_"], ["--suffix", "a", "-n", "3"]])
def test_gaps_are_no_documents(other: list[str], know: Know, charrnn: Charrnn) -> None:
    know("blank-line", "\n\n", ["spring"])
    assert_sentence(charrnn("sample", "-d", *other), 2, "leave out " + other[0])
    assert printed(charrnn, "sample", "--infill", "spr_ng", "--blank", "_") == "spring\n"


def test_a_report_has_no_boundary(know: Know, charrnn: Charrnn) -> None:
    know("separator", "\n%\n", ["spring%"])
    assert "repeated within a sample: none" in charrnn("sample", "-d", "--report").stderr


@pytest.mark.parametrize("kind", BOUNDARIES)
def test_python_writes_the_documents_of_the_command(kind: str, know: Know, charrnn: Charrnn) -> None:
    know(kind, BOUNDARIES[kind], ["spring", "autumn"])
    model = package.load("poems")
    assert model.boundary == BOUNDARIES[kind]
    lines = printed(charrnn, "sample", "-k", "5", "--seed", "4", "--json").splitlines()
    assert model.sample(num=5, seed=4) == [json.loads(line)["text"] for line in lines]
    assert "".join(model.stream("spr", seed=4)) == "ing"
    assert model.sample("spr", MOST, document=True) == "ing"
    assert len(model.sample("spr", document=False)) == 500
    assert len(model.sample("spr", 20)) == 20
    assert {made.ended_by for made in model.search(width=2)} == {"document"}
    assert [made.ended_by for made in model.search("spr", 9, width=1)] == ["length"]
    with pytest.raises(MisuseError, match="document is 1; it must be True or False"):
        model.sample(document=1)  # type: ignore[call-overload]


def test_documents_are_scored_as_tsv_with_their_boundary(know: Know, charrnn: Charrnn, here: Path) -> None:
    know("blank-line", "\n\n", ["spring\nrain", "autumn"])
    text = "spring\nrain\n\n\nautumn\n"
    rows = [row.split("\t") for row in printed(charrnn, "evaluate", "--per-document", "-", stdin=text).splitlines()]
    assert [(row[2], row[3]) for row in rows] == [("13", "spring\\nrain"), ("8", "autumn")]
    for row in rows:
        assert float(row[1]) == pytest.approx(1, abs=0.5)  # one of two, and the reserve for unknown characters
        assert float(row[0]) == pytest.approx(float(row[1]) / int(row[2]), abs=1e-3)
    (here / "one.txt").write_text(text, encoding="utf-8")
    several = printed(charrnn, "evaluate", "--per-document", "-m", "poems", "-m", "poems", "one.txt")
    assert [row.split("\t")[0] for row in several.splitlines()] == ["poems"] * 4
    found = [
        json.loads(row) for row in printed(charrnn, "evaluate", "--per-document", "--json", "one.txt").splitlines()
    ]
    assert [(row["text"], row["document"], row["characters"]) for row in found] == [
        ("one.txt", "spring\nrain", 13),
        ("one.txt", "autumn", 8),
    ]
    assert printed(charrnn, "evaluate", "--per-document", "-", stdin="") == ""


def test_each_file_is_one_document_of_a_model_of_files(know: Know, charrnn: Charrnn, here: Path) -> None:
    know("file", "\0", ["spring\n\nrain\n", "autumn"])
    (here / "folder").mkdir()
    (here / "folder" / "1.txt").write_text("spring\n\nrain\n", encoding="utf-8")
    (here / "folder" / "2.txt").write_text("autumn", encoding="utf-8")
    rows = [row.split("\t") for row in printed(charrnn, "evaluate", "--per-document", "folder").splitlines()]
    assert [(row[2], row[3]) for row in rows] == [("14", "spring\\n\\nrain\\n"), ("7", "autumn")]


@pytest.mark.parametrize("other", ["--per-line", "--per-char", "--exact", "--dynamic", "--baselines"])
def test_documents_are_scored_alone_or_not_at_all(other: str, know: Know, charrnn: Charrnn) -> None:
    know("line", "\n", ["spring"])
    assert charrnn("evaluate", "--per-document", other, "-", stdin="spring").exit_code == 2
