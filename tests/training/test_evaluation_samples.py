"""Claims about what a model writes at each evaluation."""

from __future__ import annotations

from dataclasses import replace

import pytest

from charrnn.training import evaluation_samples
from charrnn.training.evaluation_samples import write_sample
from tests.scripted_model import scripted


@pytest.mark.parametrize(
    ("kind", "boundary", "expected"),
    [("line", "\n", "\n"), ("blank-line", "\n\n", "\n\n"), ("separator", "\n%\n", "\n%\n"), ("file", "\0", "\n\n")],
)
def test_as_many_whole_documents_as_fit_are_written(
    kind: str, boundary: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation_samples, "SAMPLE_LENGTH", 40)
    model, vocabulary = scripted(["spring", "autumn"], boundary)
    texts = write_sample(model, vocabulary, 1, 7, kind).split(expected)
    assert set(texts) == {"spring", "autumn"}
    used = len(texts) * (6 + len(boundary))
    assert used <= 40 + len(boundary) < used + 6 + 2 * len(boundary)
    assert write_sample(model, vocabulary, 1, 7, kind) == expected.join(texts)


def test_a_document_that_is_longer_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation_samples, "SAMPLE_LENGTH", 4)
    assert write_sample(*scripted(["spring"], "\n\n"), 1, 7, "blank-line") == "spri"


@pytest.mark.parametrize("kind", ["none", "blank-line", "file"])
def test_a_model_that_knows_no_documents_writes_on(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of an earlier version start after a newline, whatever their documents are."""
    monkeypatch.setattr(evaluation_samples, "SAMPLE_LENGTH", 9)
    model, vocabulary = scripted(["spring"], "\n")
    assert write_sample(model, replace(vocabulary), 1, 7, kind) == "spring\nsp"
