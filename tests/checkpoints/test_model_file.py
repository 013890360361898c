"""Claims about model files: written atomically, checked before they are trusted, never executed."""

from __future__ import annotations

import errno
import json
import os
import struct
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from charrnn import atomic_files
from charrnn.checkpoints import inference, model_file, safetensors_file
from charrnn.data.vocabulary import Vocabulary
from charrnn.errors import CharRNNError
from tests.conftest import Charrnn, settings


def parts(path: Path) -> tuple[dict[str, Any], dict[str, Any], bytes]:
    """Return a file's header, charrnn's record in it, and its tensor bytes."""
    raw = path.read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8 : 8 + length])
    return header, json.loads(header["__metadata__"]["charrnn"]), raw[8 + length :]


def rewrite(path: Path, header: dict[str, Any], content: dict[str, Any], tensors: bytes) -> None:
    header["__metadata__"]["charrnn"] = json.dumps(content)
    raw = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + tensors)


def test_a_model_file_is_read_back_as_written(trained: Path) -> None:
    header, model = model_file.read_model(trained / "best.safetensors")
    assert header.config.model.hidden_size == 5
    assert header.parameters == sum(weights.numel() for weights in model.parameters())
    assert header.latest is not None
    copy = trained / "copy.safetensors"
    model_file.write(copy, header, model.state_dict())
    other, same = model_file.read_model(copy)
    assert other == header
    assert all(torch.equal(one, two) for one, two in zip(model.parameters(), same.parameters(), strict=True))


def test_the_last_file_is_a_model_too(trained: Path) -> None:
    header, model = model_file.read_model(trained / "last.safetensors")
    assert header.position is not None
    assert header.parameters == sum(weights.numel() for weights in model.parameters())


def test_a_file_contains_no_pickle(trained: Path) -> None:
    for file in trained.glob("*.safetensors"):
        assert b"\x80\x02" not in file.read_bytes()[:2]
        assert set(parts(file)[0]["__metadata__"]) == {"charrnn"}


@pytest.mark.parametrize("size", [0, 5, 200, -1])
def test_a_truncated_file_is_damaged_and_the_other_one_suggested(trained: Path, size: int) -> None:
    last = trained / "last.safetensors"
    last.write_bytes(last.read_bytes()[:size])
    with pytest.raises(CharRNNError, match=r"is damaged \(.*\). Try best\.safetensors|is not a charrnn model"):
        model_file.read_header(last)


def test_of_a_truncated_header_the_end_is_reported(trained: Path) -> None:
    last = trained / "last.safetensors"
    length = struct.unpack("<Q", last.read_bytes()[:8])[0]
    last.write_bytes(last.read_bytes()[:700])
    with pytest.raises(CharRNNError, match=rf"header ends at byte {8 + length} of 700"):
        model_file.read_header(last)


@pytest.mark.parametrize("content", [b"just some text, with no length in front", b"\0" * 64, b"PK\x03\x04zip"])
def test_a_foreign_file_is_recognised(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "foreign.safetensors"
    path.write_bytes(content)
    with pytest.raises(CharRNNError, match=r"is not a charrnn model|is damaged"):
        model_file.read_header(path)


def test_a_safetensors_file_of_another_program_is_recognised(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    safetensors.torch.save_file({"x": torch.zeros(3)}, path)
    with pytest.raises(CharRNNError, match="is a safetensors file but not a charrnn model"):
        model_file.read_header(path)


def test_a_newer_format_is_refused_with_advice(trained: Path) -> None:
    path = trained / "best.safetensors"
    header, content, tensors = parts(path)
    rewrite(path, header, content | {"format": 99}, tensors)
    with pytest.raises(CharRNNError, match=r"newer charrnn \(format 99; .* 5\).*pip install --upgrade"):
        model_file.read_header(path)


def lie(content: dict[str, Any], **model: Any) -> dict[str, Any]:
    config = content["config"]
    return content | {"config": config | {"model": config["model"] | model}}


@pytest.mark.parametrize(
    "lies",
    [
        {"hidden_size": 10**12},
        {"num_layers": 10**9},
        {"embedding_size": 7},
        {"hidden_size": "auto"},
        {"time_skip": 10**9},
        {"cell": "gru"},
        {"layer_norm": True},
    ],
    ids=str,
)
def test_sizes_that_the_tensors_do_not_have_are_refused_before_anything_is_built(
    trained: Path, lies: dict[str, Any]
) -> None:
    path = trained / "best.safetensors"
    header, content, tensors = parts(path)
    rewrite(path, header, lie(content, **lies), tensors)
    with pytest.raises(CharRNNError, match="is damaged"):
        model_file.read_model(path)


def test_a_tensor_with_another_size_than_its_bytes_is_refused(trained: Path) -> None:
    path = trained / "best.safetensors"
    header, content, tensors = parts(path)
    header["head_bias"]["shape"] = [2**40]
    rewrite(path, header, content, tensors)
    with pytest.raises(CharRNNError, match="gives head_bias another size than its bytes"):
        model_file.read_header(path)


@pytest.mark.parametrize(
    "change",
    [
        {"vocabulary": {"characters": "aab\n", "seen": 5, "novel": 0}},
        {"vocabulary": {"characters": "ab", "seen": 5, "novel": 9}},
        {"vocabulary": {"characters": "ab\n", "seen": 5, "novel": 1, "unseen": 3}},
        {"vocabulary": "ab"},
        {"config": {"model": {"cell": "transformer"}}},
        {"corpus": {}},
        {"history": [{}]},
        {"position": 3},
    ],
    ids=str,
)
def test_a_garbled_header_is_reported_in_a_sentence(trained: Path, change: dict[str, Any]) -> None:
    path = trained / "best.safetensors"
    header, content, tensors = parts(path)
    rewrite(path, header, content | change, tensors)
    with pytest.raises(CharRNNError, match=r"damaged|model\.cell"):
        model_file.read_header(path)


def test_a_file_is_what_the_safetensors_library_writes_byte_for_byte(trained: Path) -> None:
    header = replace(
        model_file.read_header(trained / "last.safetensors"), vocabulary=Vocabulary('诗"\\\x01\x7f\n', 9, 1)
    )
    path, kinds = trained / "written.safetensors", ("float64", "float32", "int64", "int32", "uint8")
    tensors = {f"{place}{kind}": torch.ones(2, 3, dtype=getattr(torch, kind)) for place, kind in enumerate(kinds)}
    tensors |= {"诗": torch.tensor(0.5), "": torch.zeros(0, 3), "a column": torch.arange(6.0).view(2, 3)[:, 1]}
    model_file.write(path, header, tensors)
    record = {"charrnn": json.dumps(parts(path)[1], ensure_ascii=False)}
    assert path.read_bytes() == safetensors.torch.save({name: each.clone() for name, each in tensors.items()}, record)
    tables = {name: np.arange(5, dtype=name) for name in ("uint8", "uint16", "uint32")}
    model_file.write_tables(path, header, tables)
    assert path.read_bytes() == safetensors.numpy.save(tables, record)


def test_saving_takes_no_memory_for_the_tensors(trained: Path) -> None:
    """It once took nine times that of the weights: a snapshot, a copy of it, and the bytes of the file twice."""
    header, size = model_file.read_header(trained / "last.safetensors"), 1 << 20
    # a row of one buffer, as weights are on a GPU, and one that is not in one piece
    tensors = {str(row): weights for row, weights in enumerate(torch.ones(8, size // 4))}
    column = torch.ones(size // 4, 2)[:, 0]
    path, allocated = trained / "written.safetensors", Allocated()  # type: ignore[no-untyped-call]
    tracemalloc.start()
    try:
        with allocated:
            model_file.write(path, header, tensors)
            assert allocated.total == 0
            model_file.write(path, header, tensors | {"column": column})
            assert allocated.total == size
        model_file.write_tables(path, header, {name: tensor.numpy() for name, tensor in tensors.items()})
        assert tracemalloc.get_traced_memory()[1] < size / 4
    finally:
        tracemalloc.stop()
    assert path.stat().st_size > 8 * size


class Allocated(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of the tensors that torch makes."""

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **kwargs or {})
        own = {tensor.untyped_storage().data_ptr() for tensor in tree_leaves((args, kwargs)) if torch.is_tensor(tensor)}
        for tensor in tree_leaves(made):
            if torch.is_tensor(tensor) and tensor.untyped_storage().data_ptr() not in own:
                self.total += tensor.untyped_storage().nbytes()
        return made


def test_a_disk_that_fills_up_between_two_tensors_leaves_the_previous_file_intact(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = trained / "last.safetensors"
    before, header = path.read_bytes(), model_file.read_header(path)
    written: list[Any] = []

    def fills_up(table: Any) -> Any:
        if written:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written.append(table)
        return table

    monkeypatch.setattr(np, "ascontiguousarray", fills_up)
    with pytest.raises(CharRNNError, match=r"the disk is full\. last\.safetensors is still .*Free at least 2 MB there"):
        model_file.write_tables(path, header, dict.fromkeys("ab", np.zeros(1_000_000, dtype=np.uint8)))
    assert len(written) == 1
    assert path.read_bytes() == before
    assert not list(trained.glob("*.tmp"))


def test_a_full_disk_leaves_the_previous_file_intact(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = trained / "last.safetensors"
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CharRNNError, match=r"the disk is full\. last\.safetensors is still .*Free at least 3 MB there"):
        atomic_files.write_atomically(path, b"x" * 3_000_000)
    assert path.read_bytes() == before
    assert not list(trained.glob("*.tmp"))


def test_the_header_and_the_tensors_are_those_of_one_file(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A training that saved between the two once gave a model of the wrong weights, without a word."""
    best, opened = trained / "best.safetensors", safetensors_file._header
    header, tensors, raw = *model_file.read(best), best.read_bytes()
    model_file.write(trained / "next.safetensors", header, {name: tensor + 1 for name, tensor in tensors.items()})

    def replacing(path: Path, file: Any) -> Any:
        found = opened(path, file)
        os.replace(trained / "next.safetensors", best)
        return found

    monkeypatch.setattr(safetensors_file, "_header", replacing)
    _, model = model_file.read_model(best)
    assert all(torch.equal(weights, tensors[name]) for name, weights in model.state_dict().items())
    assert best.read_bytes() != raw


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_damage(trained: Path, value: float) -> None:
    best = trained / "best.safetensors"
    header, tensors = model_file.read(best)
    tensors["head_bias"][1] = value
    model_file.write(best, header, tensors)
    for read in (model_file.read_model, inference.load):
        with pytest.raises(CharRNNError, match=r"is damaged \(head_bias has values that are not finite\)"):
            read(best)


def test_large_weights_are_none(trained: Path) -> None:
    """The sum of their squares is not finite in single precision."""
    best = trained / "best.safetensors"
    header, tensors = model_file.read(best)
    tensors["head_bias"][1] = 1e30
    model_file.write(best, header, tensors)
    model_file.read_model(best)


def test_advice_does_not_lead_from_one_damaged_file_to_another(trained: Path) -> None:
    for name in ("best.safetensors", "last.safetensors"):
        (trained / name).write_bytes((trained / name).read_bytes()[:-1])
    for name in ("best.safetensors", "last.safetensors"):
        with pytest.raises(CharRNNError, match=r"is damaged \(.*\)\. Copy it again, or train again\."):
            model_file.read_header(trained / name)


# Boundaries


def write_pieces(folder: Path) -> None:
    for index in range(12):
        (folder / f"{index}.txt").write_text(f"a bird {'sings ' * index}\n\nand\n%\n", encoding="utf-8")


def trained_on_pieces(folder: Path, charrnn: Charrnn, documents: str) -> Path:
    """Train on pieces as documents of a kind; return the model file."""
    write_pieces(folder)
    result = charrnn("train", ".", "-q", "-o", "run", *settings("train.steps=5", f"data.documents={documents}"))
    assert result.exit_code == 0, result.output
    return folder / "run" / "best.safetensors"


@pytest.mark.parametrize(
    ("settings_given", "boundary"),
    [
        ((), "\n"),
        (("data.documents=line",), "\n"),
        (("data.documents=blank-line",), "\n\n"),
        (("data.documents=file",), "\0"),
        (("data.documents=separator", 'data.separator="\\n%\\n"'), "\n%\n"),
    ],
    ids=str,
)
def test_a_file_names_the_boundary_of_its_documents(
    settings_given: tuple[str, ...], boundary: str, here: Path, charrnn: Charrnn
) -> None:
    write_pieces(here)
    result = charrnn("train", ".", "-q", "-o", "run", *settings("train.steps=5", *settings_given))
    assert result.exit_code == 0, result.output
    for file in ("best.safetensors", "last.safetensors"):
        content = safetensors_file.read(here / "run" / file).content
        assert content.get("boundary", "\n") == boundary
        assert content["format"] == (2 if boundary == "\n" else 3)
        assert model_file.read_header(here / "run" / file).vocabulary.boundary == boundary
    assert inference.load(here / "run" / "best.safetensors")[1].boundary == boundary
    resumed = charrnn("train", "--resume", "-m", "run", "-q", "-s", "train.steps=9")
    assert resumed.exit_code == 0, resumed.output
    scored = charrnn("evaluate", "-m", "run", "--json")
    assert scored.exit_code == 0, scored.output


@pytest.mark.parametrize("wrong", ["\n", "", "\n\n\n", "x", 1, None, ["\n", "\n"]], ids=repr)
def test_another_boundary_than_that_of_its_documents_is_refused(wrong: Any, here: Path, charrnn: Charrnn) -> None:
    path = trained_on_pieces(here, charrnn, "blank-line")
    header, content, tensors = parts(path)
    rewrite(path, header, content | {"boundary": wrong}, tensors)
    for read in (model_file.read_header, inference.load):
        with pytest.raises(CharRNNError, match="lacks or garbles boundary"):
            read(path)


def test_files_of_documents_without_a_boundary_keep_their_meaning(here: Path, charrnn: Charrnn) -> None:
    """Earlier versions joined files by newlines, and began every text after one."""
    path = trained_on_pieces(here, charrnn, "blank-line")
    header, content, tensors = parts(path)
    del content["boundary"]
    rewrite(path, header, content | {"format": 2}, tensors)
    assert model_file.read_header(path).vocabulary.boundary == "\n"
    assert charrnn("evaluate", "-m", "run", "--json").exit_code == 0


@pytest.mark.parametrize("change", [{"format": 2}, {"boundary": None}, {"boundary": "\n\n", "format": 3}], ids=str)
def test_the_boundary_the_format_and_the_characters_agree(change: Any, here: Path, charrnn: Charrnn) -> None:
    path = trained_on_pieces(here, charrnn, "file")
    header, content, tensors = parts(path)
    rewrite(path, header, content | change, tensors)
    for read in (model_file.read_header, inference.load):
        with pytest.raises(CharRNNError, match="lacks or garbles boundary"):
            read(path)
    del content["boundary"]
    content["config"]["data"]["documents"] = "none"
    rewrite(path, header, content | {"format": 2}, tensors)
    with pytest.raises(CharRNNError, match=r"lacks or garbles vocabulary\.characters"):
        inference.load(path)


def test_a_file_without_documents_holds_nothing_that_earlier_versions_do_not_know(trained: Path) -> None:
    content = safetensors_file.read(trained / "best.safetensors").content
    assert "separator" not in content["config"]["data"]
    assert "separator" not in (trained / "config.yaml").read_text()


def test_fine_tuning_on_a_text_forgets_the_boundary_of_files(here: Path, charrnn: Charrnn) -> None:
    write_pieces(here)
    result = charrnn("train", ".", "-q", "-o", "files", *settings("train.steps=5", "data.documents=file"))
    assert result.exit_code == 0, result.output
    (here / "one.txt").write_text("a bird sings\n" * 20, encoding="utf-8")
    result = charrnn(
        "train", "one.txt", "--init-from", "files", "-q", "-o", "plain", "-s", "train.steps=5", "--seed", "1"
    )
    assert result.exit_code == 0, result.output
    assert "\0" not in model_file.read_header(here / "plain" / "best.safetensors").vocabulary.characters
