"""Tokens in a file equal those in memory; a file is used only if it is intact and of the same text and settings."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open

from charrnn.config.schema import DataConfig
from charrnn.data import corpus, splits, spool, token_cache, vocabulary
from charrnn.data.batches import ContiguousBatches
from charrnn.data.corpus import Corpus, CorpusCard, SplitText
from charrnn.data.splits import SPLITS
from charrnn.data.spool import TextSpool
from charrnn.data.text_files import TextReader
from charrnn.data.vocabulary import Vocabulary
from charrnn.errors import CharRNNError

KINDS = ("none", "line", "blank-line", "file")
SEED = 3
CONTENTS = (
    "the quick brown fox\njumps\n\nover the lazy dog;\n" * 7 + "天安门 é\n",
    "pack my box\n\n\nwith 😀 jugs" * 9,
    "\n北京!\n\n" + "zzz\n" * 30 + "qQ",
)


@pytest.fixture(autouse=True)
def _long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every text a long one, of several chunks."""
    for number, content in enumerate(CONTENTS):
        (tmp_path / f"{number}.txt").write_text(content, encoding="utf-8")
    monkeypatch.setattr(token_cache, "MIN_FILE_BYTES", 1)
    monkeypatch.setattr(spool, "_CHUNK", 64)
    monkeypatch.setattr(spool, "MAX_IN_MEMORY", 100)
    for file in (corpus, splits):
        monkeypatch.setattr(file, "BLOCK", 4)
    monkeypatch.setattr(vocabulary, "_PAIRED", 8)


def data(folder: Path, **settings: Any) -> DataConfig:
    return DataConfig(texts=[str(folder / f"{number}.txt") for number in range(len(CONTENTS))], **settings)


def encode(chosen: DataConfig, encoder: Callable[[SplitText, TextSpool], Corpus]) -> tuple[Corpus, CorpusCard]:
    with TextSpool.read(TextReader(chosen.texts)) as read:
        split_text = corpus.build(read, chosen, SEED, "texts")
        return encoder(split_text, read), CorpusCard("texts", read.digest, *split_text.layout.characters)


def write(folder: Path, chosen: DataConfig) -> tuple[Corpus, CorpusCard]:
    path = folder / "corpus.safetensors"
    return encode(chosen, lambda split_text, read: token_cache.write(split_text, chosen, SEED, read.stamps, path))


def load(folder: Path, chosen: DataConfig, card: CorpusCard, vocabulary: Vocabulary, seed: int = SEED) -> Corpus | None:
    return token_cache.load(folder / "corpus.safetensors", chosen, seed, card, vocabulary)


def assert_same(one: Corpus, other: Corpus) -> None:
    assert (one.vocabulary, one.shuffled) == (other.vocabulary, other.shuffled)
    for name in SPLITS:
        left, right = one.split(name), other.split(name)
        np.testing.assert_array_equal(left.tokens, right.tokens)
        np.testing.assert_array_equal(left.starts, right.starts)
        assert left.tokens.dtype == right.tokens.dtype
        assert left.text == right.text
    shape = 3, 7, SEED
    batches = [
        ContiguousBatches(each.training.tokens, each.training.starts, [0], *shape, each.shuffled, 5)
        for each in (one, other)
    ]
    for epoch, index in product((0, 2), range(0, batches[0].windows, 3)):
        windows = [each.window(epoch, index) for each in batches]
        for read, expected in zip(*windows, strict=True):
            np.testing.assert_array_equal(read, expected)


@pytest.mark.parametrize(("kind", "min_count"), list(product(KINDS, (1, 4))))
def test_tokens_in_a_file_equal_those_in_memory(tmp_path: Path, kind: Any, min_count: int) -> None:
    chosen = data(tmp_path, documents=kind, min_count=min_count, split=(0.6, 0.2, 0.2))
    expected, _ = encode(chosen, lambda split_text, _: split_text.in_memory())
    joined = "".join(expected.split(name).text for name in SPLITS)
    assert sorted(joined.rstrip("\n")) == sorted("\n".join(CONTENTS).rstrip("\n")) or kind != "none"
    temporary, _ = encode(chosen, lambda split_text, _: token_cache.in_memory_or_temporary(split_text))
    assert_same(temporary, expected)
    assert not (tmp_path / "corpus.safetensors").exists()
    written, card = write(tmp_path, chosen)
    assert_same(written, expected)
    mapped = load(tmp_path, chosen, card, expected.vocabulary)
    assert mapped is not None
    assert_same(mapped, expected)
    assert not mapped.training.tokens.flags.writeable


def test_the_text_of_a_split_includes_unknown_characters(tmp_path: Path) -> None:
    written, _ = write(tmp_path, data(tmp_path, min_count=4))
    assert "".join(written.split(name).text for name in SPLITS) == "\n".join(CONTENTS)
    assert "😀" in written.training.text
    assert "😀" in written.vocabulary.characters
    assert "天" not in written.vocabulary.characters


def test_a_short_text_has_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_cache, "MIN_FILE_BYTES", 1 << 26)
    write(tmp_path, data(tmp_path))
    assert not (tmp_path / "corpus.safetensors").exists()


def test_the_file_can_be_read_by_safetensors(tmp_path: Path) -> None:
    written, _ = write(tmp_path, data(tmp_path, documents="line"))
    with safe_open(tmp_path / "corpus.safetensors", "np") as file:
        np.testing.assert_array_equal(file.get_tensor("training/tokens"), written.training.tokens)
        np.testing.assert_array_equal(file.get_tensor("validation/starts"), written.validation.starts)


def test_a_file_of_other_settings_or_of_another_text_is_not_used(tmp_path: Path) -> None:
    chosen = data(tmp_path)
    written, card = write(tmp_path, chosen)
    vocabulary = written.vocabulary
    assert load(tmp_path, chosen, card, vocabulary) is not None
    for other in ({"documents": "line"}, {"min_count": 2}, {"split": (0.8, 0.1, 0.1)}, {"encoding": "utf-8-sig"}):
        assert load(tmp_path, data(tmp_path, **other), card, vocabulary) is None, other
    assert load(tmp_path, chosen, replace(card, sha256="0" * 64), vocabulary) is None
    assert load(tmp_path, chosen, replace(card, training=card.training - 1, test=card.test + 1), vocabulary) is None
    assert load(tmp_path, chosen, card, replace(vocabulary, novel=vocabulary.novel + 1)) is None
    assert load(tmp_path, chosen, card, vocabulary, SEED + 1) is None
    fewer = chosen.model_copy(update={"texts": chosen.texts[:2]})
    assert load(tmp_path, fewer, card, vocabulary) is None


def test_a_file_is_not_used_once_the_text_is_modified_or_gone(tmp_path: Path) -> None:
    chosen = data(tmp_path)
    written, card = write(tmp_path, chosen)
    os.utime(tmp_path / "1.txt", ns=(1, 1))
    assert load(tmp_path, chosen, card, written.vocabulary) is None
    (tmp_path / "1.txt").unlink()
    assert load(tmp_path, chosen, card, written.vocabulary) is None


def test_a_file_that_is_truncated_or_garbled_is_not_used(tmp_path: Path) -> None:
    chosen, path = data(tmp_path), tmp_path / "corpus.safetensors"
    written, card = write(tmp_path, chosen)
    vocabulary, raw = written.vocabulary, path.read_bytes()
    header = 8 + int.from_bytes(raw[:8], "little")
    for content in (
        *(raw[:length] for length in (0, 3, 8, 60, header, len(raw) - 1)),
        raw + b"\0",
        b"\xff" * len(raw),
        raw[:8] + b"[" * (len(raw) - 8),
        raw[:8] + raw[8:].replace(b"[", b"{", 1),
        raw[:8] + raw[8:].replace(b'"U8"', b'"I8"', 1),
        raw[:8] + raw[8:].replace(b'"shape": [1]', b'"shape": [9]', 1),
    ):
        path.unlink()  # a mapped file stays
        path.write_bytes(content)
        assert load(tmp_path, chosen, card, vocabulary) is None, content[:80]


def test_a_file_whose_arrays_changed_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once only its header was checked: zeros that a crash had left in its body were trained on and scored."""
    monkeypatch.setattr(token_cache, "_BLOCK", 7)
    chosen, path = data(tmp_path, documents="line", min_count=4), tmp_path / "corpus.safetensors"
    written, card = write(tmp_path, chosen)
    raw = path.read_bytes()
    header = 8 + int.from_bytes(raw[:8], "little")
    with safe_open(path, "np") as file:
        assert all(file.get_tensor(f"{split}/starts").size for split in SPLITS)
        assert file.get_tensor("training/unknown").size
    for position in range(header, len(raw), 5):
        path.unlink()  # a mapped file stays
        path.write_bytes(raw[:position] + bytes([raw[position] ^ 1]) + raw[position + 1 :])
        assert load(tmp_path, chosen, card, written.vocabulary) is None, position
    for content in (raw[:header] + bytes(len(raw) - header), raw.replace(b'"crc32"', b'"crc33"')):
        path.write_bytes(content)
        assert load(tmp_path, chosen, card, written.vocabulary) is None
    path.write_bytes(raw)
    assert load(tmp_path, chosen, card, written.vocabulary) is not None


def test_a_full_disk_is_reported_in_one_sentence_and_no_file_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = sorted(tmp_path.iterdir())
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CharRNNError, match=r"corpus\.safetensors: the disk is full\. Free at least 1 MB there, then"):
        write(tmp_path, data(tmp_path))
    assert sorted(tmp_path.iterdir()) == before


def test_the_message_about_a_full_temporary_folder_names_no_invisible_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(SplitText, "write", full)
    with pytest.raises(CharRNNError) as caught:
        encode(data(tmp_path), lambda split_text, _: token_cache.in_memory_or_temporary(split_text))
    assert str(caught.value).startswith(f"{tmp_path}: the disk is full, and the text is long.")
    assert str(caught.value).endswith("Set TMPDIR to use another folder.")
