"""evaluate --per-char --top: what each kind of model held for likeliest."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.cli.test_ensemble import printed
from tests.cli.test_main import assert_sentence
from tests.conftest import Charrnn
from tests.mixture_files import write_mixture

TEXT = "the quick 鸟\tbrown\\ dog\nfive dozen jugs.\n"


@pytest.fixture
def mixed(runs: dict[str, Path], here: Path) -> str:
    shutil.copytree(runs["causal"], "mixed")
    network, counts, target = (folder / "best.safetensors" for folder in (runs["causal"], runs["ngram"], Path("mixed")))
    write_mixture(network, counts, target)
    return "mixed"


@pytest.mark.parametrize(
    "kind", ["causal", "bidirectional", "ngram", "mixture", "ensemble", "dynamic", "dynamic mixture"]
)
def test_the_likeliest_characters_are_those_of_the_models_ranks_and_bits(
    kind: str, runs: dict[str, Path], mixed: str, charrnn: Charrnn
) -> None:
    model = ["-m", mixed if "mixture" in kind else str(runs.get(kind, runs["causal"]))]
    if kind == "ensemble":
        model = ["--ensemble", *model, "-m", str(runs["ngram"]), "--weights", "1,1"]
    rule = ["--dynamic", "--dynamic-rate", "0.1"] if "dynamic" in kind else []
    common = ("evaluate", "--per-char", "--json", *model, *rule, "-")
    rows = [json.loads(line) for line in printed(charrnn, *common, "--top", "500", stdin=TEXT).splitlines()]
    plain = [json.loads(line) for line in printed(charrnn, *common, stdin=TEXT).splitlines()]
    assert [{name: row[name] for name in row if name != "likeliest"} for row in rows] == plain
    assert "".join(row["character"] for row in rows) == TEXT
    for row in rows:
        characters = [one["character"] for one in row["likeliest"]]
        p = np.array([one["probability"] for one in row["likeliest"]])
        assert len(set(characters)) == len(characters) > 26
        assert (np.diff(p) <= 0).all()
        if row["character"] in characters:
            of_it = p[characters.index(row["character"])]
            assert (p > of_it * (1 + 1e-6)).sum() < row["rank"] <= (p >= of_it * (1 - 1e-6)).sum()
            np.testing.assert_allclose(-np.log2(of_it), row["bits"], rtol=1e-4, atol=1e-5)
        else:
            assert row["rank"] == len(characters) + 1


def test_the_likeliest_follow_in_pairs_of_columns(runs: dict[str, Path], charrnn: Charrnn) -> None:
    common = ("evaluate", "--per-char", "-m", str(runs["causal"]), "--top", "2", "-")
    rows = [line.split("\t") for line in printed(charrnn, *common, stdin=TEXT).splitlines()]
    objects = [json.loads(line) for line in printed(charrnn, *common, "--json", stdin=TEXT).splitlines()]
    assert "\\n" in {row[3] for row in rows}
    for row, made in zip(rows, objects, strict=True):
        pairs = [(one["character"].replace("\n", "\\n"), f"{one['probability']:.4g}") for one in made["likeliest"]]
        assert row[3:] == [cell for pair in pairs for cell in pair]


def test_top_without_per_char_is_a_sentence(runs: dict[str, Path], charrnn: Charrnn) -> None:
    for output in ([], ["--per-line"], ["--json"]):
        assert_sentence(
            charrnn("evaluate", *output, "--top", "3", "-m", str(runs["causal"])), 2, "of --per-char; add it"
        )
    assert_sentence(charrnn("evaluate", "--per-char", "--top", "0"), 2, "--top is 0; it must be at least 1")
