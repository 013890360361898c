"""Tokens in a file are those in memory, and a file is believed only if it is whole and of this text and settings."""

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
    """Let every text be a long one, of several chunks."""
    for number, content in enumerate(CONTENTS):
        (tmp_path / f"{number}.txt").write_text(content, encoding="utf-8")
    monkeypatch.setattr(token_cache, "LONG", 1)
    monkeypatch.setattr(spool, "_CHUNK", 64)
    monkeypatch.setattr(spool, "_IN_MEMORY", 100)
    for file in (corpus, splits):
        monkeypatch.setattr(file, "_BLOCK", 4)
    monkeypatch.setattr(vocabulary, "_PAIRED", 8)


def data(folder: Path, **settings: Any) -> DataConfig:
    return DataConfig(texts=[str(folder / f"{number}.txt") for number in range(len(CONTENTS))], **settings)


def made(chosen: DataConfig, then: Callable[[SplitText, TextSpool], Corpus]) -> tuple[Corpus, CorpusCard]:
    with TextSpool.read(chosen.texts) as read:
        split_text = corpus.build(read, chosen, SEED, "texts")
        return then(split_text, read), CorpusCard("texts", read.digest, *split_text.layout.characters)


def kept(folder: Path, chosen: DataConfig) -> tuple[Corpus, CorpusCard]:
    path = folder / "corpus.safetensors"
    return made(chosen, lambda split_text, read: token_cache.keep(split_text, chosen, SEED, read.stamps, path))


def found(folder: Path, chosen: DataConfig, card: CorpusCard, known: Vocabulary, seed: int = SEED) -> Corpus | None:
    return token_cache.find(folder / "corpus.safetensors", chosen, seed, card, known)


def assert_same(one: Corpus, other: Corpus) -> None:
    assert (one.vocabulary, one.shuffled) == (other.vocabulary, other.shuffled)
    for name in SPLITS:
        mine, yours = one.part(name), other.part(name)
        np.testing.assert_array_equal(mine.tokens, yours.tokens)
        np.testing.assert_array_equal(mine.starts, yours.starts)
        assert mine.tokens.dtype == yours.tokens.dtype
        assert mine.text == yours.text
    shape = 3, 7, SEED
    lanes = [
        ContiguousBatches(each.training.tokens, each.training.starts, each.vocabulary.newline, *shape, each.shuffled, 5)
        for each in (one, other)
    ]
    for epoch, index in product((0, 2), range(0, lanes[0].windows, 3)):
        windows = [each.window(epoch, index) for each in lanes]
        for read, expected in zip(*windows, strict=True):
            np.testing.assert_array_equal(read, expected)


@pytest.mark.parametrize(("kind", "min_count"), list(product(KINDS, (1, 4))))
def test_tokens_in_a_file_are_those_in_memory(tmp_path: Path, kind: Any, min_count: int) -> None:
    chosen = data(tmp_path, documents=kind, min_count=min_count, split=(0.6, 0.2, 0.2))
    expected, _ = made(chosen, lambda split_text, _: split_text.in_memory())
    whole = "".join(expected.part(name).text for name in SPLITS)
    assert sorted(whole.rstrip("\n")) == sorted("\n".join(CONTENTS).rstrip("\n")) or kind != "none"
    held, _ = made(chosen, lambda split_text, _: token_cache.hold(split_text))
    assert_same(held, expected)
    assert not (tmp_path / "corpus.safetensors").exists()
    written, card = kept(tmp_path, chosen)
    assert_same(written, expected)
    mapped = found(tmp_path, chosen, card, expected.vocabulary)
    assert mapped is not None
    assert_same(mapped, expected)
    assert not mapped.training.tokens.flags.writeable


def test_a_part_gives_the_characters_that_the_vocabulary_lacks(tmp_path: Path) -> None:
    written, _ = kept(tmp_path, data(tmp_path, min_count=4))
    assert "".join(written.part(name).text for name in SPLITS) == "\n".join(CONTENTS)
    assert "😀" in written.training.text
    assert "😀" in written.vocabulary.characters
    assert "天" not in written.vocabulary.characters


def test_a_short_text_has_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_cache, "LONG", 1 << 26)
    kept(tmp_path, data(tmp_path))
    assert not (tmp_path / "corpus.safetensors").exists()


def test_the_file_is_one_that_others_can_read(tmp_path: Path) -> None:
    written, _ = kept(tmp_path, data(tmp_path, documents="line"))
    with safe_open(tmp_path / "corpus.safetensors", "np") as file:
        np.testing.assert_array_equal(file.get_tensor("training/tokens"), written.training.tokens)
        np.testing.assert_array_equal(file.get_tensor("validation/starts"), written.validation.starts)


def test_a_file_of_other_settings_or_of_another_text_is_not_believed(tmp_path: Path) -> None:
    chosen = data(tmp_path)
    written, card = kept(tmp_path, chosen)
    known = written.vocabulary
    assert found(tmp_path, chosen, card, known) is not None
    for other in ({"documents": "line"}, {"min_count": 2}, {"split": (0.8, 0.1, 0.1)}, {"encoding": "utf-8-sig"}):
        assert found(tmp_path, data(tmp_path, **other), card, known) is None, other
    assert found(tmp_path, chosen, replace(card, sha256="0" * 64), known) is None
    assert found(tmp_path, chosen, replace(card, training=card.training - 1, test=card.test + 1), known) is None
    assert found(tmp_path, chosen, card, replace(known, novel=known.novel + 1)) is None
    assert found(tmp_path, chosen, card, known, SEED + 1) is None
    fewer = chosen.model_copy(update={"texts": chosen.texts[:2]})
    assert found(tmp_path, fewer, card, known) is None


def test_a_file_is_not_believed_once_the_text_was_touched_or_is_gone(tmp_path: Path) -> None:
    chosen = data(tmp_path)
    written, card = kept(tmp_path, chosen)
    os.utime(tmp_path / "1.txt", ns=(1, 1))
    assert found(tmp_path, chosen, card, written.vocabulary) is None
    (tmp_path / "1.txt").unlink()
    assert found(tmp_path, chosen, card, written.vocabulary) is None


def test_a_file_that_is_cut_short_or_garbled_is_not_believed(tmp_path: Path) -> None:
    chosen, path = data(tmp_path), tmp_path / "corpus.safetensors"
    written, card = kept(tmp_path, chosen)
    known, raw = written.vocabulary, path.read_bytes()
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
        path.unlink()  # what is mapped stays
        path.write_bytes(content)
        assert found(tmp_path, chosen, card, known) is None, content[:80]


def test_a_file_whose_numbers_changed_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its header alone was checked once: zeros that a crash had left in its body were trained on, and scored."""
    monkeypatch.setattr(token_cache, "_BLOCK", 7)
    chosen, path = data(tmp_path, documents="line", min_count=4), tmp_path / "corpus.safetensors"
    written, card = kept(tmp_path, chosen)
    raw = path.read_bytes()
    header = 8 + int.from_bytes(raw[:8], "little")
    with safe_open(path, "np") as file:
        assert all(file.get_tensor(f"{part}/starts").size for part in SPLITS)
        assert file.get_tensor("training/unknown").size
    for place in range(header, len(raw), 5):
        path.unlink()  # what is mapped stays
        path.write_bytes(raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :])
        assert found(tmp_path, chosen, card, written.vocabulary) is None, place
    for content in (raw[:header] + bytes(len(raw) - header), raw.replace(b'"crc32"', b'"crc33"')):
        path.write_bytes(content)
        assert found(tmp_path, chosen, card, written.vocabulary) is None
    path.write_bytes(raw)
    assert found(tmp_path, chosen, card, written.vocabulary) is not None


def test_a_disk_that_is_full_is_a_sentence_and_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = sorted(tmp_path.iterdir())
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CharRNNError, match=r"corpus\.safetensors: the disk is full\. Free at least 1 MB there, then"):
        kept(tmp_path, data(tmp_path))
    assert sorted(tmp_path.iterdir()) == before


def test_a_full_temporary_folder_names_no_file_that_no_one_can_see(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(SplitText, "write", full)
    with pytest.raises(CharRNNError) as caught:
        made(data(tmp_path), lambda split_text, _: token_cache.hold(split_text))
    assert str(caught.value).startswith(f"{tmp_path}: the disk is full, and the text is a long one.")
    assert str(caught.value).endswith("TMPDIR names another place.")
