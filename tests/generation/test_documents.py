"""Claims about whole documents, on models with known probabilities, or that have memorised a few documents."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from charrnn.generation import beam_search
from charrnn.generation.copying import CopyIndex
from charrnn.generation.filters import Filters
from charrnn.generation.infill import Gapped, fill
from charrnn.generation.sampling import Sample, Sampler
from charrnn.generation.stop_texts import StopTexts
from charrnn.models.interface import Floats
from charrnn.models.torch_model import TorchModel
from tests.generation.test_sampling import PROBABILITIES, VOCABULARY, memoryless
from tests.scripted_model import scripted

POEMS = ["spring\nrain\nfalls", "autumn\nwind", "o"]
BOUNDARIES = ["\n\n", "\n%\n", "\0", "\n<|end|>\n"]


def write(documents: Sequence[str], boundary: str, count: int = 20, length: int = 99, **more: Any) -> list[Sample]:
    """Write documents by a model that knows them; what is streamed is what is written."""
    model, vocabulary = scripted(documents, boundary)
    prime = more.pop("prime", "")
    settings = {"seed": 1, "document": True, **more}
    sampler = Sampler(model, vocabulary, [prime] * count, length, Filters(), indices=range(count), **settings)
    streamed = [""] * count
    for step in sampler:
        streamed = [before + now for before, now in zip(streamed, step, strict=True)]
    assert streamed == [made.text for made in sampler.samples]
    return sampler.samples


def drawn(count: int, length: int, **more: Any) -> tuple[list[Sample], int]:
    """Draw documents of a model whose every character is independent; also give how many steps that took."""
    vocabulary = replace(VOCABULARY, boundary="\n\n")
    settings: dict[str, Any] = {"seed": 3, "document": True, **more}
    model = TorchModel(memoryless())
    sampler = Sampler(model, vocabulary, [""] * count, length, Filters(), indices=range(count), **settings)
    steps = sum(1 for _ in sampler)
    return sampler.samples, steps


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_a_document_is_written_whole_and_without_its_boundary(boundary: str) -> None:
    found = write(POEMS, boundary)
    assert {made.text for made in found} == set(POEMS)
    assert {made.ended_by for made in found} == {"document"}


def test_a_line_is_a_document_also_an_empty_one() -> None:
    assert {made.text for made in write(["ab", "", "c"], "\n")} == {"ab", "", "c"}


def test_a_document_is_continued_from_its_prime_and_may_end_with_it() -> None:
    assert {made.text for made in write(POEMS, "\n\n", prime="autumn\n")} == {"wind"}
    assert {made.text for made in write(POEMS, "\n%\n", prime="autumn\nwind\n%")} == {""}
    assert {made.text for made in write(POEMS, "\n\n", prime="autumn\nwind\n\n")} == set(POEMS)


def test_what_until_names_ends_a_document_before_its_boundary() -> None:
    found = {made.text: made.ended_by for made in write(POEMS, "\n\n", until=["\nrain", "\n\n\n"])}
    assert found == {"spring": "until", "autumn\nwind": "document", "o": "document"}
    kept = {made.text: made.ended_by for made in write(POEMS, "\n\n", until="rain", keep_until=True)}
    assert kept == {"spring\nrain": "until", "autumn\nwind": "document", "o": "document"}
    assert {made.ended_by for made in write(POEMS, "\n\n", until="\n\n")} == {"until"}


def test_a_document_that_does_not_end_within_the_length_is_cut_there() -> None:
    found = {made.text: made.ended_by for made in write(POEMS, "\n\n", length=6)}
    assert found == {"spring": "length", "autumn": "length", "o": "document"}


def test_of_two_stop_texts_that_end_together_the_longer_counts_the_boundary_included() -> None:
    stops = StopTexts("b\n", "\n")
    assert not stops.ends_document(stops.after("b\n"))
    assert stops.ends_document(stops.after("a\n"))
    longer = StopTexts(["a\n\n\n"], "\n\n")
    assert longer.ends_document(longer.after("a\n\n"))
    inside = StopTexts("x\ny", "\n")
    assert inside.ends_document(inside.after("x\n"))


def test_newlines_before_a_document_are_neither_written_nor_counted_nor_scored() -> None:
    found, _ = drawn(300, 400)
    assert not [made.text for made in found if made.text[:1] == "\n" or "\n\n" in made.text]
    share = sum(made.text.startswith("c") for made in found) / 300  # as likely as if newlines did not exist
    assert share == pytest.approx(0.4 / 0.9, abs=0.1)
    for made in found:
        each = [-math.log(PROBABILITIES[character]) + VOCABULARY.known_nats for character in made.text]
        assert made.characters == len(made.text)
        assert made.nats == pytest.approx(sum(each), rel=1e-5)


def test_a_text_of_newlines_alone_ends() -> None:
    model, vocabulary = scripted(["\n" * 90], "\n\n")
    sampler = Sampler(model, vocabulary, [""], 9, Filters(), seed=1, indices=[0], document=True)
    assert sum(1 for _ in sampler) <= 9 + len("\n\n")


def test_newlines_before_a_document_are_not_taken_back() -> None:
    """At a dead end characters are taken back, of which these are none."""
    codes = np.frombuffer("abcbacabbccaab\nbc\nacca\n\n".encode("utf-32-le"), dtype="<u4")
    for seed in range(2):
        for made in drawn(20, 60, no_copy=CopyIndex(codes, 2), no_repeat=4, seed=seed)[0]:
            assert not made.text.startswith("\n")
            assert made.characters == len(made.text)


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("forbidden", ["copy", "repeat"])
def test_the_end_of_a_document_is_never_forbidden(boundary: str, forbidden: str) -> None:
    """The boundary is not printed, so it is no copy; and where it follows the same words again, no repeat."""
    size = len(boundary) + 1
    codes = np.frombuffer(("zz" + "o" + boundary).encode("utf-32-le"), dtype="<u4")
    more: dict[str, Any] = {"no_copy": CopyIndex(codes, size)} if forbidden == "copy" else {"no_repeat": size}
    found = write(["o"], boundary, count=3, **more)
    assert [(made.text, made.ended_by) for made in found] == [("o", "document")] * 3


def test_past_the_end_of_a_file_a_newline_is_written() -> None:
    texts = [made.text for made in write(["ab", "cd"], "\0", document=False, length=20)]
    assert {line for text in texts for line in text.split("\n")} == {"ab", "cd"}
    assert {made.text for made in write(["ab", "cd"], "\0", document=False, until="\n")} == {"ab", "cd"}
    model, vocabulary = scripted(["ab"], "\0")
    (best,) = beam_search.search(model, vocabulary, "", 5, 1)
    assert best.text == "ab\nab"


def test_copies_are_known_past_the_end_of_a_file() -> None:
    """The index has what stands between two files in the training text, which is printed as a newline."""
    codes = np.frombuffer(b"ab\0ab\0", dtype=np.uint8)
    for made in write(["ab"], "\0", document=False, count=4, length=12, no_copy=CopyIndex(codes, 4)):
        assert "b\nab" not in made.text
    for made in write(["ab"], "\0", document=False, count=4, length=12, no_repeat=4):
        runs = [made.text[at : at + 4] for at in range(len(made.text) - 3)]
        assert len(set(runs)) == len(runs)


@pytest.mark.parametrize("boundary", ["\n", *BOUNDARIES])
def test_a_search_finds_whole_documents(boundary: str) -> None:
    documents = POEMS if boundary != "\n" else ["spring", "autumn", "o"]
    model, vocabulary = scripted(documents, boundary)
    found = beam_search.search(model, vocabulary, "", 99, 3, document=True)
    assert {made.text for made in found} == set(documents)
    assert {made.ended_by for made in found} == {"document"}
    kept = beam_search.search(model, vocabulary, "", 99, 3, "spr", keep_until=True, document=True)
    assert {made.text: made.ended_by for made in kept}["spr"] == "until"
    assert {made.ended_by for made in kept if made.text != "spr"} == {"document"}


def test_a_search_reads_the_newlines_before_a_document_and_does_not_count_them() -> None:
    """The model wants five newlines before a document, and is sure of a wrong character after fewer."""
    model, vocabulary = scripted(["a", "b", "x"], "\n\n")

    def predict(tokens: tuple[int, ...]) -> Floats:
        text = vocabulary.decode(tokens)
        odds = {"\n": 0.9, "x": 0.1} if len(text) < 5 else {"a": 0.6, "b": 0.3, "\n": 0.1}
        odds = odds if text.strip("\n") == "" else {"\n": 0.9, "x": 0.1}
        return np.log([odds.get(character, 1e-9) for character in vocabulary.characters])

    model._predict = predict  # type: ignore[method-assign]
    found = beam_search.search(model, vocabulary, "", 99, 2, document=True)
    assert [made.text for made in found] == ["a", "b"]
    assert found[0].nats == pytest.approx(-math.log(0.6) + vocabulary.known_nats)


def test_a_loop_that_never_ends_does_not_hide_the_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its mean is the best, so the search once went on to the most characters, and showed it first."""
    monkeypatch.setattr(beam_search, "_PATIENCE", 50)
    model, vocabulary = scripted(["a", "b"], "\n\n")
    asked = [0]

    def predict(tokens: tuple[int, ...]) -> Floats:
        asked[0] += 1
        text = vocabulary.decode(tokens).lstrip("\n")
        odds = {"a": 0.6, "b": 0.4} if text == "" else {"a": 0.98, "\n": 0.02} if text[-1] == "a" else {"\n": 1.0}
        return np.log([odds.get(character, 1e-9) for character in vocabulary.characters])

    model._predict = predict  # type: ignore[method-assign]
    found = beam_search.search(model, vocabulary, "", 5_000, 2, document=True)
    assert {made.ended_by for made in found} == {"document"}
    assert asked[0] < 1_000


def test_the_score_of_a_searched_document_is_that_of_its_characters() -> None:
    vocabulary = replace(VOCABULARY, boundary="\n\n")
    for made in beam_search.search(TorchModel(memoryless()), vocabulary, "", 8, 3, document=True):
        each = [-math.log(PROBABILITIES[character]) + VOCABULARY.known_nats for character in made.text]
        assert made.nats == pytest.approx(sum(each), rel=1e-5)


def test_no_gap_is_filled_with_the_end_of_a_file() -> None:
    model, vocabulary = scripted(["ab", "a"], "\0")
    model.pieces = ["ab\0", "a\0\0", "a\0\0", "a\0\0"]
    for filling in fill(model, vocabulary, Gapped.parse("a_\nb_", "_"), 5, 9):
        assert "\0" not in filling.text
