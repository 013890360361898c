"""Claims about mixtures on the command line and in Python: the file is a model like any other, and so is its network
alone."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import charrnn as package
from charrnn.checkpoints import model_file
from charrnn.cli import model_page
from charrnn.cli.open_model import open_model
from charrnn.errors import MisuseError
from charrnn.models.factory import Network
from charrnn.models.torch_mixture import TorchMixture
from tests.cli.test_ensemble import printed
from tests.cli.test_main import assert_sentence
from tests.conftest import Charrnn, close, settings
from tests.mixture_files import WEIGHTS, write_mixture
from tests.test_docs import ROOT
from tests.test_layout import LIGHT, loaded_by_command

ALL = ((1.0,),)  # the n-gram model has the whole weight


@pytest.fixture(scope="module")
def mixtures(runs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Write mixtures of both networks of the runs, each in a copy of its run folder."""
    folder, made = tmp_path_factory.mktemp("mixtures"), {}
    for kind, name, weights in (
        ("causal", "causal", WEIGHTS),
        ("bidirectional", "bidirectional", WEIGHTS),
        ("causal", "counts", ALL),
    ):
        shutil.copytree(runs[kind], folder / name)
        files = runs[kind] / "best.safetensors", runs["ngram"] / "best.safetensors", folder / name / "best.safetensors"
        write_mixture(*files, weights)
        made[name] = str(folder / name)
    return made


@pytest.fixture
def text(here: Path) -> str:
    Path("other.txt").write_text("the quick 鸟 brown dog\nfox jugs\n" * 3, encoding="utf-8")
    return "other.txt"


def nats(charrnn: Charrnn, *arguments: str) -> np.ndarray:
    lines = printed(charrnn, "evaluate", "--per-char", "--json", *arguments).splitlines()
    return np.array([json.loads(line)["nats"] for line in lines])


@pytest.mark.parametrize("kind", ["causal", "bidirectional"])
def test_every_way_of_scoring_scores_the_mixture(
    kind: str, mixtures: dict[str, str], text: str, charrnn: Charrnn
) -> None:
    each = nats(charrnn, "-m", mixtures[kind], text)
    scored = json.loads(printed(charrnn, "evaluate", "--json", "--exact", "-m", mixtures[kind], text))
    close(scored["nats"], each.sum(), 1e-5)
    close(package.load(mixtures[kind]).bits(Path(text).read_text("utf-8")) * np.log(2), each, 1e-5)
    assert scored["mixture"] == {"order": scored["mixture"]["order"], "weights": [list(row) for row in WEIGHTS]}
    line = "the quick 鸟 brown dog"
    path = Path(mixtures[kind]) / "lines.safetensors"  # the same mixture, whose documents are lines
    header, model = model_file.read_mixture(path.with_name("best.safetensors"))
    assert isinstance(model, TorchMixture)
    lines = replace(header, config=header.config.with_values(data={"documents": "line"}))
    model_file.write(path, lines, model.network.state_dict(), model.ngram.tables())
    for output, name in (("--per-line", mixtures[kind]), ("--per-document", str(path))):
        (first, *_) = printed(charrnn, "evaluate", output, "--json", "-m", name, text).splitlines()
        close(json.loads(first)["nats"], each[: len(line) + 1].sum(), 1e-5)


def test_the_network_alone_is_scored_as_its_own_file_is(
    runs: dict[str, Path], mixtures: dict[str, str], text: str, charrnn: Charrnn
) -> None:
    for arguments in ((), ("--per-line",), ("--per-char",), ("--dynamic", "--dynamic-rate", "0.1")):
        found, alone = (
            [json.loads(line) for line in printed(charrnn, "evaluate", *arguments, "--json", *model, text).splitlines()]
            for model in (("--network", "-m", mixtures["causal"]), ("-m", str(runs["causal"])))
        )
        close([each["nats"] for each in found], [each["nats"] for each in alone], 1e-5)
        assert not any("mixture" in each for each in found)


def test_dynamic_evaluation_of_a_whole_weight_of_counts_is_that_of_the_counts(
    runs: dict[str, Path], mixtures: dict[str, str], text: str, charrnn: Charrnn
) -> None:
    dynamic = ("evaluate", "--json", "--dynamic", "--dynamic-rate", "0.1", text, "-m")
    counted = json.loads(printed(charrnn, "evaluate", "--json", text, "-m", str(runs["ngram"])))["nats"]
    close(json.loads(printed(charrnn, *dynamic, mixtures["counts"]))["nats"], counted, 1e-6)


@pytest.mark.parametrize(
    "arguments",
    [("-n", "30", "-p", "the "), ("-k", "3", "-n", "9"), ("--each-line", "-n", "9"), ("--beam", "3", "-n", "9")],
)
def test_samples_of_a_mixture_and_of_its_network(
    arguments: tuple[str, ...], runs: dict[str, Path], mixtures: dict[str, str], charrnn: Charrnn
) -> None:
    seed = () if "--beam" in arguments else ("--seed", "3")

    def texts(*model: str) -> list[str]:
        given = {"stdin": "the\nfox\n"} if "--each-line" in arguments else {}
        lines = printed(charrnn, "sample", *arguments, *seed, "--json", "-m", *model, **given).splitlines()
        return [json.loads(line)["text"] for line in lines]

    assert texts(mixtures["causal"], "--network") == texts(str(runs["causal"]))
    if seed:  # drawn from the network alone, unless both are asked for
        assert texts(mixtures["causal"]) == texts(str(runs["causal"]))
        assert texts(mixtures["counts"], "--mixture") == texts(str(runs["ngram"]))
        assert texts(mixtures["causal"], "--mixture") != texts(str(runs["causal"]))
    else:  # searched for under both
        assert texts(mixtures["counts"]) == texts(str(runs["ngram"]))


def test_drawing_with_counts_needs_some(runs: dict[str, Path], mixtures: dict[str, str], charrnn: Charrnn) -> None:
    result = charrnn("sample", "--mixture", "-m", str(runs["causal"]))
    assert (result.exit_code, "draws with counts, and there are none in" in " ".join(result.stderr.split())) == (
        2,
        True,
    )
    both = charrnn("sample", "--mixture", "--network", "-m", mixtures["causal"])
    assert both.exit_code == 2
    assert charrnn("sample", "--mixture", "--beam", "2", "-m", mixtures["causal"]).exit_code == 2
    model = package.load(mixtures["causal"])
    drawn = printed(charrnn, "sample", "--mixture", "-n", "30", "--seed", "1", "-m", mixtures["causal"])
    assert model.sample("", 30, seed=1, mixture=True) == drawn.removesuffix("\n")
    assert model.sample("", 30, seed=1) == package.load(str(runs["causal"])).sample("", 30, seed=1)


def test_a_mixture_takes_fillings_from_the_joint_head_of_its_network_and_judges_them_with_its_counts(
    runs: dict[str, Path], tmp_path: Path, charrnn: Charrnn
) -> None:
    network, counts, mixture = runs["bidirectional"], runs["ngram"], tmp_path / "mixture.safetensors"
    write_mixture(network / "best.safetensors", counts / "best.safetensors", mixture, ALL)

    def filling(*model: str | Path) -> dict[str, Any]:
        given = "sample", "--infill", "__zy dog", "--beam", "1", "--json", "-m", *map(str, model)
        return dict(json.loads(printed(charrnn, *given)))

    found, alone = filling(mixture), filling(mixture, "--network")
    assert found["text"] == "lazy dog" != filling(counts)["text"], "which counts before the gap do not propose"
    close(found["nats"], package.load(counts).score("lazy dog").nats, 1e-5)
    assert alone == filling(network)
    assert abs(alone["nats"] - found["nats"]) > 0.1


def test_a_mixture_adapts_its_network_and_keeps_its_counts(
    runs: dict[str, Path], mixtures: dict[str, str], text: str, charrnn: Charrnn
) -> None:
    adapted = ("sample", "--adapt", text, "--adapt-rate", "0.2", "-n", "20", "--seed", "1", "-m")
    before = (Path(mixtures["causal"]) / "best.safetensors").read_bytes()
    assert printed(charrnn, *adapted, mixtures["causal"], "--network") == printed(
        charrnn, *adapted, str(runs["causal"])
    )
    counted = printed(charrnn, "sample", "-n", "20", "--seed", "1", "-m", str(runs["ngram"]))
    assert printed(charrnn, *adapted, mixtures["counts"], "--mixture") == counted
    for more, told in ((("--mixture",), "bits/char of its network on the way"), ((), "bits/char on the way")):
        assert told in charrnn(*adapted, mixtures["counts"], *more).stderr  # what learned, whatever the counts weigh
    assert (Path(mixtures["causal"]) / "best.safetensors").read_bytes() == before


def test_an_ensemble_takes_mixtures_or_their_networks(
    runs: dict[str, Path], mixtures: dict[str, str], text: str, charrnn: Charrnn
) -> None:
    half = ("--ensemble", "--weights", "1,1")
    both = ("-m", mixtures["causal"], "-m", mixtures["bidirectional"])
    parts = [nats(charrnn, "-m", mixtures[kind], text) for kind in ("causal", "bidirectional")]
    close(nats(charrnn, *half, *both, text), -np.log((np.exp(-parts[0]) + np.exp(-parts[1])) / 2), 1e-5)
    alone = ("-m", str(runs["causal"]), "-m", str(runs["bidirectional"]))
    close(nats(charrnn, *half, *both, "--network", text), nats(charrnn, *half, *alone, text), 1e-5)
    content = Path(text).read_text("utf-8")
    mixed = package.ensemble([mixtures["causal"], package.load(mixtures["bidirectional"])], [1, 1])
    close(mixed.bits(content) * np.log(2), nats(charrnn, *half, *both, text), 1e-5)


def test_a_score_of_the_split_that_chose_the_weights_is_told_with_a_fair_one(here: Path, charrnn: Charrnn) -> None:
    without_test = settings("model.mixture=ngram", "train.steps=20", "train.eval_every=10", "data.split=[0.8,0.2,0]")
    assert charrnn("train", "text.txt", "-o", "all", *without_test).exit_code == 0
    assert charrnn("train", "text.txt", "-o", "some", *settings("model.mixture=ngram", "train.steps=10")).exit_code == 0
    header = model_file.read_header(Path("all/best.safetensors"))
    assert header.latest is not None
    told = "all: the weights of its mixture were chosen on this very split; where each half had weights chosen on the"
    told += f" other, it needed {header.latest.mixture_bits:.4f} bits/char."
    for more in ((), ("--per-char",), ("--dynamic",), ("--ensemble", "-m", "all")):
        assert told in charrnn("evaluate", "-m", "all", *more).stderr
    for other in (("-m", "all", "--network"), ("-m", "all", "text.txt"), ("-m", "some")):
        result = charrnn("evaluate", *other)
        assert result.exit_code == 0
        assert "this very split" not in result.stderr


@pytest.mark.parametrize("command", [("sample", "-n", "5"), ("evaluate",), ("evaluate", "--per-line")])
def test_only_an_ngram_model_has_no_network_to_ask_for(
    command: tuple[str, ...], runs: dict[str, Path], text: str, charrnn: Charrnn
) -> None:
    texts = () if command[0] == "sample" else (text,)
    result = charrnn(*command, "--network", "-m", str(runs["ngram"]), *texts)
    assert_sentence(result, 2)
    assert "has no network" in result.stderr
    with pytest.raises(MisuseError, match="has no network"):
        package.load(runs["ngram"], network=True)


@pytest.mark.parametrize("output", [(), ("--per-line",), ("--per-char",)])
def test_the_network_of_a_mixture_is_compared_with_a_network_without_counts(
    output: tuple[str, ...], runs: dict[str, Path], mixtures: dict[str, str], text: str, charrnn: Charrnn
) -> None:
    both = ("-m", mixtures["causal"], "-m", str(runs["causal"]))
    lines = printed(charrnn, "evaluate", *output, "--network", *both, "--json", text).splitlines()
    scores = [json.loads(line)["nats"] for line in lines]
    assert scores[: len(scores) // 2] == scores[len(scores) // 2 :]
    assert package.load(runs["causal"], network=True).score("the fox") == package.load(runs["causal"]).score("the fox")


def test_info_names_the_counts_and_what_they_weigh(mixtures: dict[str, str], charrnn: Charrnn) -> None:
    path = Path(mixtures["causal"]) / "best.safetensors"
    header, model = model_file.read_mixture(path)
    assert not isinstance(model, Network)
    tables = model.ngram.tables()
    counts = sum(len(table) for name, table in tables.items() if name.endswith("counts"))
    size = sum(table.nbytes for table in tables.values())
    page = " ".join(printed(charrnn, "info", "-m", mixtures["causal"]).split())
    assert f"mixture n-gram model of order {model.ngram.order}, {counts:,} counts ({size / 1e6:.1f} MB of the" in page
    assert "weight 0.20 to 0.90 by context" in page
    assert header.latest is not None
    assert f"{header.latest.mixture_bits:.4f} bits/char, mixed with n-grams; the network alone" in page
    assert "architecture 2 x 5 lstm, embedding 4" in page
    found: dict[str, Any] = json.loads(printed(charrnn, "info", "--json", "-m", mixtures["causal"]))
    weights = [list(row) for row in WEIGHTS]
    assert found["mixture"] == {"order": model.ngram.order, "weights": weights, "counts": counts, "bytes": size}
    assert found["mixture_validation"]["bits_per_character"] == header.latest.mixture_bits
    assert found["validation"]["bits_per_character"] == header.latest.bits_per_character
    assert found["parameters"] == header.parameters


def test_the_guide_explains_the_fields_of_json_that_only_mixtures_have(here: Path, charrnn: Charrnn) -> None:
    assert charrnn("train", "text.txt", "-o", "run", *settings("model.mixture=ngram", "train.steps=10")).exit_code == 0
    last = Path("run/metrics.jsonl").read_text("utf-8").splitlines()[-1]
    info, score = (printed(charrnn, *command, "--json", "-m", "run") for command in (("info",), ("evaluate",)))
    fields = {name for text in (last, info, score) for name in re.findall(r'"(mixture\w*)": ', text)}
    rows = [line for line in (ROOT / "docs" / "guide.md").read_text("utf-8").splitlines() if line.startswith("| ")]
    told = {name for line in rows for name in re.findall(r"^\| `(mixture\w*)` ", line)}
    assert fields == told
    assert set(json.loads(info)["mixture"]) == {"order", "weights", "counts", "bytes"}


def test_a_page_has_one_weight_where_all_are_alike_and_kept_characters_beside_the_vocabulary(
    mixtures: dict[str, str],
) -> None:
    path = Path(mixtures["counts"]) / "best.safetensors"
    header = model_file.read_header(path)
    page = model_page.page(path, replace(header, vocabulary=replace(header.vocabulary, unseen=2)), 400)
    rows = {line.split()[0]: line for line in page.splitlines()[:8]}
    assert [*rows][2:6] == ["parameters", "mixture", "vocabulary", "kept"]
    assert rows["mixture"].endswith("weight 1.00")


def test_the_list_of_runs_says_which_are_mixtures(mixtures: dict[str, str], here: Path, charrnn: Charrnn) -> None:
    (here / "checkpoints").mkdir()
    (here / "checkpoints" / "mixed").symlink_to(mixtures["causal"], target_is_directory=True)
    listed = printed(charrnn, "info").splitlines()[1]
    header = model_file.read_header(Path(mixtures["causal"]) / "best.safetensors")
    assert header.latest is not None
    assert header.mixture is not None
    assert f"2 x 5 lstm with {header.mixture.order}-grams, {header.latest.mixture_bits:.4f} bits/char" in listed


def test_a_mixture_in_python_shows_the_states_of_its_network(runs: dict[str, Path], mixtures: dict[str, str]) -> None:
    model, alone = package.load(mixtures["causal"]), package.load(mixtures["causal"], network=True)
    before = package.load(runs["causal"])
    assert "2 x 5 lstm with " in repr(model)
    assert "-grams, " not in repr(alone)
    close(model.states("the fox").hidden, before.states("the fox").hidden, 1e-5)
    close(alone.bits("the fox"), before.bits("the fox"), 1e-5)
    assert alone.sample("the ", 20, seed=1) == before.sample("the ", 20, seed=1)
    assert model.sample("the ", 20, seed=1) == package.load(mixtures["causal"]).sample("the ", 20, seed=1)
    module, expected = model.torch_module().state_dict(), before.torch_module().state_dict()
    assert all(torch.equal(weights, expected[name]) for name, weights in module.items())


def test_a_mixture_samples_and_scores_lines_without_torch_or_pydantic(mixtures: dict[str, str]) -> None:
    model = ("-m", mixtures["causal"])
    for more in ((), ("--network",)):
        assert loaded_by_command(["sample", "-n", "9", *model, *more])[1] == LIGHT
        assert loaded_by_command(["evaluate", "--per-line", "-", *model, *more], "fox\n")[1] == LIGHT


def test_a_mixture_is_compared_with_the_best_ngram_model(
    runs: dict[str, Path], mixtures: dict[str, str], charrnn: Charrnn
) -> None:
    """Its own counts may be pruned; the baseline is what it would be for the network alone."""
    scored = [
        json.loads(printed(charrnn, "evaluate", "--json", "-m", name))["baselines"]
        for name in (mixtures["causal"], str(runs["causal"]))
    ]
    assert scored[0] == scored[1]
    assert scored[0]["ngram"]


@pytest.mark.parametrize(("before", "after"), [("causal", "mixed"), ("mixed", "causal")])
def test_a_file_that_training_replaces_meanwhile_is_all_of_the_old_or_all_of_the_new(
    before: str,
    after: str,
    runs: dict[str, Path],
    mixtures: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A run's best model may become a mixture, or cease to be one, between two looks at its file."""
    files = {"causal": runs["causal"] / "best.safetensors", "mixed": Path(mixtures["causal"]) / "best.safetensors"}
    path, read = tmp_path / "best.safetensors", model_file.read_header

    def read_then_replace(path: Path) -> model_file.Header:
        header = read(path)
        shutil.copy(files[after], path)
        return header

    monkeypatch.setattr(model_file, "read_header", read_then_replace)
    shutil.copy(files[before], path)
    header, model = open_model(path, "cpu")
    assert (header.mixture is not None) == isinstance(model, TorchMixture) == (after == "mixed")
    shutil.copy(files[before], path)
    header = model_file.read_header(path)
    found = model_page.fields(files[before], header)["mixture"]
    assert model_page.fields(path, header)["mixture"] == found
    assert (found is not None) == (before == "mixed")
