"""Claims about documents in a text, and about models that know none."""

from __future__ import annotations

import pytest

from charrnn.data.documents import LENGTH, MOST, Documents, split_documents
from charrnn.errors import MisuseError


@pytest.mark.parametrize(
    ("boundary", "text", "expected"),
    [
        ("\n", "a\n\nb", ["a", "", "b"]),
        ("\n\n", "a\nb\n\nc\n\n", ["a\nb", "c"]),
        ("\n\n", "\n\n\na\n\n\n\n\nb\n", ["a", "b"]),
        ("\n\n", "\n\n", []),
        ("\n%\n", "a\nb\n%\n\n\nc%\n%\nd", ["a\nb", "\n\nc%", "d"]),
        ("\n%\n", "a\n%\n\n%\n", ["a", ""]),
        ("\0", "a\n\nb\n\0c", ["a\n\nb\n", "c"]),
        ("\0", "", []),
    ],
)
def test_documents_are_split_at_their_boundary(boundary: str, text: str, expected: list[str]) -> None:
    assert list(split_documents(text, boundary)) == expected


@pytest.mark.parametrize(
    ("kind", "boundary", "known"),
    [
        ("none", "\n", False),
        ("line", "\n", True),
        ("blank-line", "\n\n", True),
        ("separator", "\n", True),
        ("separator", "\n%\n", True),
        ("file", "\0", True),
        ("blank-line", "\n", False),  # of an earlier version
        ("file", "\n", False),
    ],
)
def test_a_model_that_starts_after_a_newline_knows_lines_alone(kind: str, boundary: str, known: bool) -> None:
    documents = Documents(kind, boundary)
    assert documents.known == known
    if not known:
        with pytest.raises(MisuseError, match="without documents. Or so." if kind == "none" else "Train it again"):
            documents.check("-d writes a document", "Or so.")


def test_a_length_asks_for_characters_and_no_length_for_a_document() -> None:
    lines, none = Documents("line", "\n"), Documents("none", "\n")
    assert [lines.settle(None, None), lines.settle(None, 9)] == [(True, MOST), (False, 9)]
    assert [lines.settle(True, 9), lines.settle(False, None)] == [(True, 9), (False, LENGTH)]
    assert none.settle(None, None) == (False, LENGTH)
