"""Every character is in one split and is read once per epoch, with the next character as its target.
Sizes: N=23 characters, B=3 batch rows, T=4 steps."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charrnn.config.limits import boundary
from charrnn.config.schema import DataConfig
from charrnn.data import corpus, splits, spool
from charrnn.data.batches import ContiguousBatches, Rows
from charrnn.data.corpus import Corpus
from charrnn.data.splits import SPLITS
from charrnn.data.spool import TextSpool
from charrnn.errors import CharRNNError

CORPORA = Path(__file__).parents[3] / "shared" / "corpora"
KINDS = ("none", "line", "blank-line", "file")
N, B, T = 23, 3, 4
SEED = 7


class Text(NamedTuple):
    """A text and where each of its files starts."""

    content: str
    starts: tuple[int, ...]


def one(content: str) -> Text:
    return Text(content, (0,))


def several(*contents: str, kind: str = "none") -> Text:
    """Join files as reading them does, where documents are of this kind, each ending with a newline or with a NUL."""
    starts = np.cumsum([0, *(len(content) + 1 for content in contents[:-1])])
    return Text(("\0" if kind == "file" else "\n").join(contents), tuple(int(i) for i in starts))


def spooled(text: Text) -> TextSpool:
    """Store a text as if it had been read from files."""
    source = TextSpool()
    source.starts = text.starts
    source.append(text.content)
    return source


class Part(NamedTuple):
    """The text of a split and where its documents start."""

    text: str
    starts: npt.NDArray[np.int64]


def split(text: Text, data: DataConfig, seed: int) -> tuple[Part, Part, Part]:
    """Split a text, however short, and return its splits."""
    with spooled(text) as source:
        plan = splits.plan_split(source, data, data.boundary, seed)
        contents = ["", "", ""]
        for index, codes in plan.split_text(source):
            contents[index] += "".join(chr(code) for code in codes)
        starts = [np.concatenate(list(plan.starts(index))) for index in range(len(SPLITS))]
    training, validation, test = (Part(*part) for part in zip(contents, starts, strict=True))
    return training, validation, test


def build(text: Text, data: DataConfig, seed: int, name: str) -> Corpus:
    with spooled(text) as source:
        return corpus.build(source, data, seed, name).in_memory()


def documents(text: Text, kind: str) -> tuple[str, npt.NDArray[np.int64]]:
    """Return a text with the newlines that its last document lacked, and where documents start."""
    with spooled(text) as source:
        bounds = splits.find_documents(source, kind, boundary(kind, None))
        return "".join(source.pieces(0, source.length)), bounds[:-1]


def documents_of(part: Part) -> list[str]:
    ends = [*part.starts[1:], len(part.text)]
    return [part.text[start:end] for start, end in zip(part.starts, ends, strict=True)]


def rejection(text: Text, **data: Any) -> str:
    with pytest.raises(CharRNNError) as caught:
        build(text, DataConfig(**data), SEED, "notes.txt")
    return str(caught.value)


# Splits


def test_a_split_in_order_rounds_in_favour_of_the_later_splits() -> None:
    training, validation, test = split(one("0123456789abc"), DataConfig(split=(0.5, 0.25, 0.25)), SEED)
    assert (training.text, validation.text, test.text) == ("012345", "678", "9abc")
    assert [part.starts.tolist() for part in (training, validation, test)] == [[0], [0], [0]]


def test_shares_that_are_not_binary_fractions_are_exact() -> None:
    """0.7 + 0.2 is 0.8999999999999999, which once cut a text of 1000 at 899."""
    parts = split(one("x" * 1000), DataConfig(split=(0.7, 0.2, 0.1)), SEED)
    assert [len(part.text) for part in parts] == [700, 200, 100]
    parts = split(one("x" * 100), DataConfig(split=(0.29, 0.7, 0.01)), SEED)  # 0.29 of 100 is 28.999999999999996
    assert [len(part.text) for part in parts] == [29, 70, 1]


@pytest.mark.parametrize("kind", KINDS)
def test_a_share_of_zero_is_empty(kind: Any) -> None:
    """The last document was once assigned to a test split of share 0."""
    text = several(*(f"{'abcdefghij'[i]}\n\n" * 3 for i in range(10)))
    _, validation, test = split(text, DataConfig(split=(0.7, 0.3, 0.0), documents=kind), SEED)
    assert test.text == ""
    assert validation.text != ""


def test_tiny_shakespeare_is_split_as_the_field_does() -> None:
    path = CORPORA / "tinyshakespeare.txt"
    if not path.is_file():
        pytest.skip("the corpora are not here")
    read, digest = corpus.read(DataConfig(texts=[str(path)]), SEED, path.name)
    lengths = [len(read.split(name).text) for name in ("training", "validation", "test")]
    assert lengths == [1_003_854, 55_770, 55_770]
    assert len(read.vocabulary) == 65
    assert read.vocabulary.seen == 1_003_854
    assert read.training.text.startswith("First Citizen:\n")
    assert len(digest) == 64


plain = st.text(st.sampled_from("ab \n\n月😀"), min_size=100, max_size=300).filter(
    lambda text: len(set(text)) > 1 and text.strip("\n") != ""
)


@given(plain, st.sampled_from(KINDS), st.sampled_from([(0.9, 0.05, 0.05), (0.5, 0.5, 0.0), (0.4, 0.3, 0.3)]))
def test_every_character_is_in_one_split(content: str, kind: Any, shares: tuple[float, float, float]) -> None:
    text = several(content[:30], content[30:50], content[50:])
    parts = split(text, DataConfig(split=shares, documents=kind), SEED)
    if kind == "none":
        assert "".join(part.text for part in parts) == text.content
        return
    content, starts = documents(text, kind)
    assert Counter("".join(part.text for part in parts)) == Counter(content)
    ends = [*starts[1:], len(content)]
    expected = Counter(content[start:end] for start, end in zip(starts, ends, strict=True))
    found = Counter(document for part in parts if part.text for document in documents_of(part))
    assert found == expected


@given(plain)
def test_any_text_of_a_hundred_characters_and_two_distinct_ones_makes_a_corpus(content: str) -> None:
    made = build(one(content), DataConfig(), SEED, "any")
    assert made.training.text + made.validation.text + made.test.text == content
    assert made.vocabulary.seen == len(made.training.text)
    assert set(made.vocabulary.characters) == set(made.training.text) | {"\n"}


# Documents


@pytest.mark.parametrize(
    ("kind", "content", "expected"),
    [
        ("line", "a\nbb\n\nc\n", ["a\n", "bb\n", "\n", "c\n"]),
        ("line", "a\nbb", ["a\n", "bb\n"]),
        ("blank-line", "a\nb\n\nc\n\n\n\nd", ["a\nb\n\n", "c\n\n\n\n", "d\n\n"]),
        ("blank-line", "a\n\nb\n", ["a\n\n", "b\n\n"]),
        ("blank-line", "a b", ["a b\n\n"]),
    ],
)
def test_a_document_includes_the_newlines_that_end_it(kind: str, content: str, expected: list[str]) -> None:
    content, starts = documents(one(content), kind)
    assert documents_of(Part(content, starts)) == expected


def test_files_are_documents_whatever_their_lines() -> None:
    content, starts = documents(several("a\n\nb\n", "c", "d\n", kind="file"), "file")
    assert documents_of(Part(content, starts)) == ["a\n\nb\n\0", "c\0", "d\n\0"]


@given(
    st.text("ab\n%", max_size=60),
    st.sampled_from(["%", "\n%\n", "%%", "aba", "\n\n"]),
    st.sampled_from([1, 2, 5, 1 << 20]),
)
def test_a_separator_ends_each_document(content: str, separator: str, chunk: int) -> None:
    """Wherever the pieces that the text is read in are cut, and however occurrences would overlap."""
    with pytest.MonkeyPatch.context() as patch, spooled(one(content)) as source:
        patch.setattr(spool, "_CHUNK", chunk)
        bounds = splits.find_documents(source, "separator", separator)
        found = "".join(source.pieces(0, source.length))
    *whole, rest = found.split(separator)
    assert rest == ""
    assert found.startswith(content)
    assert len(found) <= len(content) + len(separator)
    assert [found[start:end] for start, end in pairwise(bounds)] == [document + separator for document in whole]


def test_separators_that_overlap_at_the_end_of_a_text_are_no_mistake() -> None:
    """They once were: what is left after the last one was in no document."""
    for separator, content in (("\n%\n", "a\n%\nb\n%\n%\n"), ("\n\n\n", "a\n\n\nb\n\n\n\n")):
        with spooled(one(content)) as source:
            bounds = splits.find_documents(source, "separator", separator)
            assert bounds[-1] == source.length
            assert "".join(source.pieces(0, source.length)).endswith(separator)


def test_a_separator_that_is_not_in_the_text_is_told_and_how_to_write_a_newline() -> None:
    told = rejection(one("a joke\n%\n" * 30), documents="separator", separator=r"\n%\n")
    assert told == (
        r"notes.txt: data.separator '\\n%\\n' does not separate anything in it."
        r""" In double quotes \n is a newline: -s 'data.separator="\n%\n"'"""
    )


def test_the_boundary_is_in_the_vocabulary_however_rare_it_is() -> None:
    text = several(*("ab" * 9 for _ in range(20)), kind="file")
    made = build(text, DataConfig(documents="file", min_count=20), SEED, "any")
    assert set(made.vocabulary.characters) >= {"\0", "\n"}
    assert made.vocabulary.boundary == "\0"
    text = one("aaaaaaaaaa<|end|>" * 20)
    made = build(text, DataConfig(documents="separator", separator="<|end|>", min_count=100), SEED, "any")
    assert set(made.vocabulary.characters) == {"\n", *"a<|end>"}


def names(count: int) -> Text:
    return one("".join(f"name {i:03}\n" for i in range(count)))


def test_the_assignment_of_documents_depends_on_the_seed_alone() -> None:
    data = DataConfig(split=(0.8, 0.1, 0.1), documents="line")
    assignments = [tuple(part.text for part in split(names(50), data, seed)) for seed in (0, 0, 1)]
    assert assignments[0] == assignments[1]
    assert assignments[0] != assignments[2]


def test_the_assignment_of_documents_never_changes() -> None:
    """A run that is resumed, or scored on a held-out split, splits its text again."""
    _, validation, test = split(names(50), DataConfig(split=(0.8, 0.1, 0.1), documents="line"), 7)
    assert [int(document[5:]) for document in documents_of(validation)] == [4, 31, 35, 39, 40]
    assert [int(document[5:]) for document in documents_of(test)] == [13, 18, 21, 44, 49]


def test_a_sorted_list_of_names_is_not_tested_on_its_tail() -> None:
    data = DataConfig(split=(0.8, 0.1, 0.1), documents="line")
    training, validation, test = split(names(200), data, SEED)
    assert training.text != names(200).content[: len(training.text)]
    assert test.text != names(200).content[-len(test.text) :]
    assert abs(len(training.text) / 1800 - 0.8) < 0.01
    assert abs(len(validation.text) / 1800 - 0.1) < 0.01


def test_documents_keep_their_order_within_a_split() -> None:
    training, _, _ = split(names(50), DataConfig(documents="line"), SEED)
    assert documents_of(training) == sorted(documents_of(training))


def test_shares_are_of_characters_not_of_documents() -> None:
    """Ten short lines must not weigh as much as ten long ones."""
    text = one("".join("x" * (10 if i % 2 else 990) + "\n" for i in range(200)))
    for seed in range(5):
        training, _, _ = split(text, DataConfig(split=(0.5, 0.25, 0.25), documents="line"), seed)
        assert abs(len(training.text) / len(text.content) - 0.5) < 0.02


@pytest.mark.parametrize("seed", range(5))
def test_of_two_documents_one_is_for_training_and_one_for_validation(seed: int) -> None:
    training, validation, test = split(several("a" * 300, "b" * 5, kind="file"), DataConfig(documents="file"), seed)
    assert {training.text, validation.text} == {"a" * 300 + "\0", "b" * 5 + "\0"}
    assert test.text == ""


# Unusable texts


def test_a_text_that_is_too_short_is_rejected() -> None:
    assert rejection(one("fourteen chars")) == "notes.txt has 14 characters; training needs at least 100."
    assert build(one("ab" * 50), DataConfig(), SEED, "notes.txt").vocabulary.seen == 90


def test_a_text_of_a_single_repeated_character_is_rejected() -> None:
    assert rejection(one("月" * 120)) == "notes.txt is one character over and over ('月'); there is nothing to learn."
    assert isinstance(build(one("a" * 119 + "b"), DataConfig(), SEED, "notes.txt"), Corpus)


def test_an_empty_split_is_named() -> None:
    assert rejection(one("ab" * 60), split=(0.999, 0.0005, 0.0005)) == (
        "notes.txt: data.split [0.999, 0.0005, 0.0005] leaves the validation split empty. Give it a larger share."
    )
    assert "leaves the training split empty" in rejection(one("ab" * 60), split=(0.001, 0.9, 0.099))


def test_a_single_document_is_named_as_the_cause_of_an_empty_split() -> None:
    """A file of JSON in one giant line was once to get a larger share."""
    for kind, noun in (("line", "line"), ("blank-line", "piece"), ("file", "file")):
        assert rejection(one("ab" * 60), documents=kind) == (
            f"notes.txt: data.documents={kind} keeps each {noun} whole, and the text is a single {noun}."
            " Set data.documents=none, which cuts anywhere."
        )


def warnings(text: Text, **settings: Any) -> list[str]:
    with spooled(text) as source:
        data = DataConfig(**settings)
        return list(corpus.warnings(corpus.build(source, data, SEED, "notes.txt"), data))


def test_a_giant_line_that_is_held_out_is_told() -> None:
    """It left a twentieth of the text to train on, without a word."""
    lines = [f"line {number}\n" for number in range(100)]
    lines.insert(50, "giant " * 3000 + "\n")
    (told,) = warnings(one("".join(lines)), documents="line")
    assert told.startswith("Only ")
    assert told.endswith(
        "% of the text is left to train on: data.documents=line keeps each line whole, and line 51 of 101 is 96% of the"
        " text. Set data.documents=none, which cuts anywhere."
    )
    assert warnings(one("".join(lines)), documents="none") == []
    assert warnings(names(50), documents="line") == []


def test_a_vocabulary_of_a_newline_alone_is_rejected() -> None:
    """It scored 18.5 bits/char, without a word."""
    assert rejection(one("abba\n" * 40), min_count=100) == (
        "notes.txt: data.min_count=100 leaves no character to learn: the most frequent occurs 72 times in the training"
        " split. Set a smaller one; 1 keeps all."
    )
    assert build(one("abba\n" * 40), DataConfig(min_count=72), SEED, "notes.txt").vocabulary.characters == "ab\n"
    assert rejection(one("\n" * 300 + "ab" * 5)) == (
        "notes.txt: the training split is nothing but newlines; there is nothing to learn."
    )


def test_a_vocabulary_that_lacks_much_of_the_text_is_told() -> None:
    text = one("abcd" * 9 + "ab" * 100)
    assert warnings(text, min_count=20) == [
        "data.min_count=20 leaves 8% of the training characters out of the vocabulary; they are never generated."
    ]
    assert warnings(text, min_count=9) == []


def test_the_vocabulary_is_that_of_the_training_split() -> None:
    made = build(one("ab" * 90 + "z" * 20), DataConfig(), SEED, "notes.txt")
    assert made.vocabulary.characters == "ab\n"
    assert made.split("test").text == "z" * 10
    assert not made.shuffled
    assert build(names(50), DataConfig(documents="line"), SEED, "names").shuffled


# Batches


def distinct(length: int) -> npt.NDArray[np.unsignedinteger]:
    """Return tokens that equal their positions in the text."""
    return np.arange(length, dtype=np.uint16)


def batches_of(length: int = N, rows: int = B, steps: int = T, seed: int = SEED) -> ContiguousBatches:
    return ContiguousBatches(distinct(length), np.zeros(1, dtype=np.int64), [length], rows, steps, seed)


Pair = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]


def epoch_of(batches: ContiguousBatches, epoch: int) -> list[Pair]:
    return [batches.window(epoch, index)[:2] for index in range(batches.windows)]


sizes = st.integers(1, 60).flatmap(lambda length: st.tuples(st.just(length), st.integers(1, length)))


@given(sizes, st.integers(1, 70), st.integers(0, 5), st.integers(0, 99))
def test_every_target_is_the_next_character_after_its_input(
    size: tuple[int, int], steps: int, epoch: int, seed: int
) -> None:
    length, count = size
    for inputs, targets in epoch_of(batches_of(length, count, steps, seed), epoch):
        assert inputs.dtype == targets.dtype == np.int64
        assert inputs.shape == targets.shape
        assert inputs.shape[0] == count
        # before the first character of the text comes the newline, whose token here is its length
        np.testing.assert_array_equal(inputs, np.where(targets == 0, length, targets - 1))


@given(sizes, st.integers(1, 70), st.integers(0, 5), st.integers(0, 99))
def test_an_epoch_reads_all_but_fewer_than_b_characters_each_once(
    size: tuple[int, int], steps: int, epoch: int, seed: int
) -> None:
    length, count = size
    seen = np.concatenate([targets.ravel() for _, targets in epoch_of(batches_of(length, count, steps, seed), epoch)])
    assert len(seen) == len(set(seen.tolist()))
    assert 0 <= length - len(seen) < count


@given(sizes, st.integers(1, 70), st.integers(0, 5), st.integers(0, 99))
def test_no_window_is_a_stub(size: tuple[int, int], steps: int, epoch: int, seed: int) -> None:
    lengths = [inputs.shape[1] for inputs, _ in epoch_of(batches_of(*size, steps, seed), epoch)]
    assert 1 <= min(lengths) <= max(lengths) <= steps
    assert max(lengths) - min(lengths) <= 1


@given(sizes, st.integers(1, 70), st.integers(0, 200))
def test_characters_read_are_those_that_the_windows_of_all_steps_hold(
    size: tuple[int, int], length: int, steps: int
) -> None:
    """Full windows were once counted, twice too many where two share a row that is a little longer than one."""
    batches = batches_of(*size, length)
    held = sum(batches.window(*divmod(step, batches.windows)).targets.size for step in range(steps))
    assert Rows.of(*size, length).characters_read(steps) == held


def test_two_windows_that_share_a_short_row_are_counted_as_one() -> None:
    assert [Rows.of(29, 2, 13).characters_read(steps) for steps in (1, 2, 3)] == [14, 28, 42]  # rows of 14, not 26


@given(sizes, st.integers(1, 70), st.integers(0, 5), st.integers(0, 99))
def test_each_window_starts_where_the_one_before_ended(
    size: tuple[int, int], steps: int, epoch: int, seed: int
) -> None:
    """The last target of a window is the first input of the next; three ports had the window's own first character."""
    length = size[0]
    for (_, before), (inputs, targets) in pairwise(epoch_of(batches_of(*size, steps, seed), epoch)):
        np.testing.assert_array_equal(targets[:, 0], (before[:, -1] + 1) % length)
        inside = targets[:, 0] != 0  # where the ring closes, the text starts again after a newline
        np.testing.assert_array_equal(inputs[inside, 0], before[inside, -1])


def test_a_small_epoch_is_read_as_computed_by_hand() -> None:
    """23 characters in 3 rows of 7, in windows of 3 and 4; the 2 characters before the offset are left out."""
    batches = batches_of()
    assert (batches.row_length, batches.windows) == (7, 2)
    (first, first_targets), (second, second_targets) = epoch_of(batches, 0)
    offset = int(first_targets[0, 0])
    positions = (offset + np.array([[0], [7], [14]]) + np.arange(7)) % N
    np.testing.assert_array_equal(first_targets, positions[:, :3])
    np.testing.assert_array_equal(second_targets, positions[:, 3:])
    assert (first.shape, second.shape) == ((3, 3), (3, 4))


def test_each_epoch_has_an_offset_of_its_own_that_depends_on_the_seed_alone() -> None:
    batches = batches_of(length=1000)
    first = [batches.window(epoch, 0)[1][0, 0] for epoch in range(20)]
    assert len(set(first)) > 15
    assert [batches_of(length=1000).window(epoch, 0)[1][0, 0] for epoch in range(20)] == first
    assert [batches_of(length=1000, seed=8).window(epoch, 0)[1][0, 0] for epoch in range(20)] != first


def test_windows_may_be_read_in_any_order() -> None:
    """A resumed run starts in the middle of an epoch."""
    once, again = batches_of(), batches_of()
    expected = [once.window(epoch, index)[:2] for epoch in (0, 1) for index in (0, 1)]
    for (epoch, index), window in zip(
        [(1, 1), (0, 1), (1, 0), (0, 0)], [expected[i] for i in (3, 1, 2, 0)], strict=True
    ):
        np.testing.assert_array_equal(again.window(epoch, index)[:2], window)


def test_a_single_window_of_one_row_is_the_entire_ring() -> None:
    ((inputs, targets),) = epoch_of(batches_of(length=5, rows=1, steps=9), 0)
    assert sorted(targets[0].tolist()) == [0, 1, 2, 3, 4]
    assert sorted(inputs[0].tolist()) == [0, 1, 2, 3, 5]  # no 4, the last character; the newline comes first


def shuffled_batches() -> tuple[ContiguousBatches, list[list[int]]]:
    """Return batches of one row of five documents of 2 to 6 characters, and the tokens of each document."""
    starts = np.array([0, 2, 5, 9, 14], dtype=np.int64)
    documents = [list(range(start, end)) for start, end in pairwise([*starts.tolist(), 20])]
    return ContiguousBatches(distinct(20), starts, [99], 1, 50, SEED, shuffled=True), documents


def ring(batches: ContiguousBatches, epoch: int) -> list[int]:
    """Return an epoch's text from its first character: the targets of a single row, rotated to follow the newline."""
    inputs, targets, _ = batches.window(epoch, 0)
    start = inputs[0].tolist().index(99)
    return [*targets[0, start:].tolist(), *targets[0, :start].tolist()]


def test_documents_are_shuffled_every_epoch_and_stay_in_one_piece() -> None:
    batches, documents = shuffled_batches()
    orders = []
    for epoch in range(8):
        text = ring(batches, epoch)
        order = sorted(range(len(documents)), key=lambda document: text.index(documents[document][0]))
        assert text == [token for document in order for token in documents[document]]
        orders.append(tuple(order))
    assert len(set(orders)) > 5


def test_a_shuffled_epoch_is_its_documents_joined() -> None:
    """A text larger than memory cannot be joined; looking up its tokens must give the same."""
    starts = np.array([0, 2, 5, 9, 14, 15], dtype=np.int64)
    batches = ContiguousBatches(distinct(20), starts, [99], 3, 4, SEED, shuffled=True)
    for epoch in range(4):
        order = np.random.default_rng([SEED, 2, epoch]).permutation(6)
        stream = np.concatenate([np.arange(start, end) for start, end in ([*starts, 20][i : i + 2] for i in order)])
        offset = int(np.random.default_rng([SEED, 3, epoch]).integers(20))
        read = np.concatenate([batches.window(epoch, index).targets for index in range(batches.windows)], 1)
        np.testing.assert_array_equal(read, np.roll(stream, -offset)[:18].reshape(3, 6))


def test_the_beginnings_of_a_step_are_those_of_documents() -> None:
    starts = np.array([0, 2, 5, 9, 14, 15], dtype=np.int64)
    batches = ContiguousBatches(distinct(20), starts, [99], 3, 4, SEED, shuffled=True)
    found = [batches.beginnings(step, 4) for step in range(40)]
    assert {tuple(row) for rows in found for row in rows.tolist()} == {
        tuple((start + step) % 20 for step in range(4)) for start in starts.tolist()
    }
    np.testing.assert_array_equal(found[7], batches.beginnings(7, 4))


def test_a_text_in_one_piece_is_never_shuffled() -> None:
    batches = ContiguousBatches(distinct(20), np.zeros(1, dtype=np.int64), [99], 1, 50, SEED)
    assert [ring(batches, epoch) for epoch in range(3)] == [list(range(20))] * 3


# Lookahead, whose length is drawn for each window


def test_a_small_lookahead_is_read_as_computed_by_hand() -> None:
    """5 characters in 2 rows of 2, with up to 6 more after each: the ring must not come round to the window."""
    batches = ContiguousBatches(distinct(5), np.zeros(1, dtype=np.int64), [9], 2, 2, SEED, lookahead=6)
    after = {0: 1, 1: 2, 2: 3, 3: 4, 4: 9}
    lengths = set()
    for epoch in range(40):
        _, targets, following = batches.window(epoch, 0)
        assert following is not None
        assert targets.shape == (2, 2)
        assert following.dtype == np.int64
        lengths.add(following.shape[1])
        for b in range(2):
            position = int(targets[b, 0])
            assert following[b].tolist() == [after[(position + i) % 5] for i in range(following.shape[1])]
    assert lengths == {2, 3, 4}  # with one more, the first target would stand after itself


@given(sizes, st.integers(1, 70), st.integers(1, 64), st.integers(0, 99))
def test_following_characters_go_on_beyond_the_window(
    size: tuple[int, int], steps: int, lookahead: int, seed: int
) -> None:
    length, count = size
    batches = ContiguousBatches(
        distinct(length), np.zeros(1, dtype=np.int64), [length], count, steps, seed, lookahead=lookahead
    )
    plain = batches_of(length, count, steps, seed)
    for index in range(batches.windows):
        inputs, targets, following = batches.window(1, index)
        for array, expected in zip((inputs, targets), plain.window(1, index)[:2], strict=True):
            np.testing.assert_array_equal(array, expected)  # looking ahead changes nothing else
        assert following is not None
        assert targets.shape[1] <= following.shape[1] <= targets.shape[1] + lookahead
        later = (targets[:, :1] + 1 + np.arange(following.shape[1])) % length
        # after the last character of the text comes the newline, whose token here is its length
        np.testing.assert_array_equal(following, np.where(later == 0, length, later))


def test_following_characters_are_in_the_order_of_the_same_epoch() -> None:
    starts = np.array([0, 2, 5, 9, 14], dtype=np.int64)
    single = ContiguousBatches(distinct(20), starts, [99], 1, 50, SEED, shuffled=True)
    batches = ContiguousBatches(distinct(20), starts, [99], 3, 4, SEED, shuffled=True, lookahead=7)
    ends, lengths = set(), set()
    for epoch in range(6):
        text = ring(single, epoch)
        ends.add(text[-1])
        after = dict(pairwise([*text, 99]))
        for index in range(batches.windows):
            _, targets, following = batches.window(epoch, index)
            assert following is not None
            lengths.add(following.shape[1] - targets.shape[1])
            for b in range(3):
                start = text.index(int(targets[b, 0]))
                rotated = [*text[start:], *text[:start]] * 2
                assert following[b].tolist() == [after[token] for token in rotated[: following.shape[1]]]
    assert len(ends) > 1
    assert len(lengths) > 4  # of the 8 possible ones; windows of one epoch have several


def test_a_windows_lookahead_does_not_depend_on_the_order_of_reading() -> None:
    """A resumed run starts in the middle of an epoch; and another seed draws other lengths."""

    def lengths(seed: int, order: list[int]) -> dict[int, int]:
        batches = ContiguousBatches(distinct(90), np.zeros(1, dtype=np.int64), [99], 1, 9, seed, lookahead=40)
        windows = {index: batches.window(2, index).following for index in order}
        return {index: following.shape[1] for index, following in windows.items() if following is not None}

    assert lengths(SEED, [0, 1, 2, 3, 4]) == lengths(SEED, [4, 2, 0, 1, 3])
    assert lengths(SEED, [0, 1, 2, 3, 4]) != lengths(8, [0, 1, 2, 3, 4])


def test_without_a_lookahead_there_are_no_following_characters() -> None:
    assert batches_of().window(0, 0).following is None


# Frequencies


def test_frequencies_are_shares_of_the_training_split_and_never_zero() -> None:
    # the newline is in every vocabulary; x is left out as rare
    made = build(one("ab" * 45 + "aaaaaaaaax" + "b" * 100), DataConfig(split=(0.5, 0.5, 0.0), min_count=2), 0, "t")
    assert made.vocabulary.characters == "ab\n"
    np.testing.assert_allclose(made.training.frequencies, np.array([54.5, 45.5, 0.5]) / 100.5)
