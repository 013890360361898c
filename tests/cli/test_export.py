"""Claims about charrnn export: what it writes is a model that every command opens, and a page that is one file."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from charrnn.checkpoints import model_file
from tests.cli.test_ensemble import printed
from tests.cli.test_main import assert_sentence
from tests.conftest import Charrnn, settings
from tests.mixture_files import write_mixture


@pytest.fixture
def small(either: str, here: Path, charrnn: Charrnn) -> str:
    """Export a causal model and then a bidirectional one into the folder that has their text."""
    result = charrnn("export", "--half", "small.safetensors", "-m", either)
    assert result.exit_code == 0, result.stderr
    assert re.search(r"Wrote small.safetensors \(\d\.\d MB; .*best.safetensors has \d\.\d MB\)", result.stderr)
    assert result.stdout == ""
    return "small.safetensors"


def test_every_command_opens_a_file_in_fp16(small: str, either: str, charrnn: Charrnn) -> None:
    for arguments in (["sample", "-n", "20", "--greedy"], ["sample", "--infill", "the q_ick"]):
        assert printed(charrnn, *arguments, "-m", small) == printed(charrnn, *arguments, "-m", either)
    scores = [
        json.loads(printed(charrnn, "evaluate", "text.txt", "--json", "-m", model).splitlines()[0])
        for model in (small, either)
    ]
    assert scores[0]["bits_per_character"] == pytest.approx(scores[1]["bits_per_character"], abs=0.01)
    assert "weights in fp16" in printed(charrnn, "info", "-m", small)
    assert [json.loads(printed(charrnn, "info", "--json", "-m", model))["half"] for model in (small, either)] == [
        True,
        False,
    ]
    given = settings("train.steps=2", "model.bidirectional=" + str("bidirectional" in either).lower())
    result = charrnn("train", "text.txt", "--init-from", small, "-q", "-o", "tuned", *given)
    assert result.exit_code == 0, result.stderr
    assert not model_file.read_header(Path("tuned/best.safetensors")).half


def test_its_text_is_found_by_name_in_the_folder_one_is_in(small: str, charrnn: Charrnn) -> None:
    assert "small.safetensors" in printed(charrnn, "evaluate", "-m", small)
    Path("text.txt").unlink()
    assert_sentence(
        charrnn("evaluate", "-m", small), 1, "text.txt: the text that small.safetensors was trained on is gone"
    )


def test_counts_of_a_mixture_stay_unless_the_network_alone_is_wanted(
    runs: dict[str, Path], here: Path, charrnn: Charrnn
) -> None:
    write_mixture(runs["causal"] / "best.safetensors", runs["ngram"] / "best.safetensors", here / "mixed.safetensors")
    printed(charrnn, "export", "--half", "whole.safetensors", "-m", "mixed.safetensors")
    printed(charrnn, "export", "--half", "alone.safetensors", "--network", "-m", "mixed.safetensors")
    assert "\nmixture " in printed(charrnn, "info", "-m", "whole.safetensors")
    assert "\nmixture " not in printed(charrnn, "info", "-m", "alone.safetensors")
    score = [
        printed(charrnn, "evaluate", "text.txt", "--json", *arguments)
        for arguments in (["--network", "-m", "whole.safetensors"], ["-m", "alone.safetensors"])
    ]
    network, alone = (json.loads(one.splitlines()[0])["bits_per_character"] for one in score)
    assert network == alone
    result = charrnn("export", "--html", "page.html", "-m", "mixed.safetensors")
    assert "the network of the mixture, without its counts" in result.stderr


def test_the_newest_run_is_exported_without_a_name(trained: Path, charrnn: Charrnn) -> None:
    result = charrnn("export", "--half", "small.safetensors")
    assert result.exit_code == 0, result.stderr
    assert "Model: checkpoints/text/best.safetensors" in result.stderr


def test_a_page_is_one_file_that_names_no_other(either: str, here: Path, charrnn: Charrnn) -> None:
    result = charrnn("export", "--html", "page.html", "-m", either)
    assert result.exit_code == 0, result.stderr
    found = Path("page.html").read_text("utf-8")
    policy = (
        "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    )
    assert f'content="{policy}"' in found
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|<link|\ssrc=|@import|url\((?!#)", found)
    assert str(Path(either).parent) not in found
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', found)
    fields = json.loads(data)
    assert (fields["title"], fields["model"]["name"], fields["text"], fields["tables"]) == (
        Path(either).name,
        Path(either).name,
        "",
        {},
    )
    shapes = model_file.read_header(Path(either) / "best.safetensors").shapes
    assert {tensor["name"]: tuple(tensor["shape"]) for tensor in fields["tensors"]} == shapes


REFUSED: dict[str, tuple[list[str], int, str]] = {
    "neither": ([], 2, "--half FILE.safetensors, --html FILE.html, or both"),
    "network of no file": (["--network", "--html", "x.html"], 2, "--network is about --half"),
    "another kind of file": (["--half", "x.bin"], 2, "x.bin: --half writes .safetensors; name such a file"),
    "another kind of page": (["--html", "x.txt"], 2, "x.txt: --html writes .html; name such a file"),
    "itself": (["--half", "text/best.safetensors"], 2, "text/best.safetensors is the model itself"),
    "itself by another name": (["--half", "same.safetensors"], 2, "same.safetensors is the model itself"),
    "another model of a run": (["--half", "text/last.safetensors"], 2, "is the model of a run; name another file"),
    "no such folder": (["--half", "none/x.safetensors"], 1, "cannot be written (No such file or directory)"),
    "a stray word": (["--half", "x.safetensors", "text"], 2, "A model follows -m: charrnn export --html FILE -m text"),
}


@pytest.mark.parametrize("mistake", REFUSED)
def test_a_mistake_is_refused_in_a_sentence_and_nothing_is_written(
    mistake: str, runs: dict[str, Path], here: Path, charrnn: Charrnn
) -> None:
    arguments, code, sentence = REFUSED[mistake]
    shutil.copytree(runs["causal"], "text")
    Path("same.safetensors").symlink_to("text/best.safetensors")
    before = {path: path.read_bytes() for path in here.rglob("*") if path.is_file()}
    assert_sentence(charrnn("export", *arguments, *["-m", "text"] * ("text" not in arguments)), code, sentence)
    assert {path: path.read_bytes() for path in here.rglob("*") if path.is_file()} == before


def test_counts_are_not_exported(runs: dict[str, Path], here: Path, charrnn: Charrnn) -> None:
    for arguments in (["--half", "x.safetensors"], ["--html", "x.html"]):
        result = charrnn("export", *arguments, "-m", str(runs["ngram"]))
        assert_sentence(result, 2, "is an n-gram model: it has counts, and no weights to export. Copy the file itself.")


def test_a_weight_too_large_for_fp16_is_named_and_nothing_is_written(
    runs: dict[str, Path], here: Path, charrnn: Charrnn
) -> None:
    header, tensors = model_file.read(runs["causal"] / "best.safetensors")
    tensors["head_bias"][2] = -7e4
    model_file.write(here / "large.safetensors", header, tensors)
    for arguments in (["--half", "x.safetensors"], ["--html", "x.html"]):
        assert_sentence(
            charrnn("export", *arguments, "-m", "large.safetensors"), 1, "a weight of 70000, and fp16 holds"
        )
    assert sorted(path.name for path in here.iterdir()) == ["large.safetensors", "text.txt"]
