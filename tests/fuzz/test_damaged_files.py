"""Claims about damaged model files: whatever is wrong with one, every command succeeds or says it in a sentence."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from charrnn.checkpoints import half
from tests.mixture_files import write_mixture

ROOT = Path(__file__).parent.parent.parent
FIXTURES = sorted((ROOT / "tests" / "fixtures" / "0.1.0").glob("*/*.safetensors"))
FEW, MANY = 250, 20_000  # damaged files
PER_PROCESS = 1_000


def made_of_fixtures(folder: Path) -> list[Path]:
    """Write mixtures of the networks and the n-gram model among the fixtures, and two files in fp16."""
    made, counts = [], FIXTURES[0].parent.parent / "ngram" / "best.safetensors"
    for kind, name in (("lstm", "best"), ("lstm", "last"), ("bidirectional", "best"), ("hmm", "last")):
        made.append(folder / "mixtures" / kind / f"{name}.safetensors")
        made[-1].parent.mkdir(parents=True, exist_ok=True)
        write_mixture(counts.parent.parent / kind / made[-1].name, counts, made[-1])
    for source in (made[0], counts.parent.parent / "bidirectional" / "best.safetensors"):
        made.append(folder / "half" / source.parent.name / "best.safetensors")
        made[-1].parent.mkdir(parents=True, exist_ok=True)
        half.write(source, made[-1])
    return made


def read_damaged(folder: Path, seed: int, count: int) -> dict[str, int]:
    """Let another process read so many damaged files; return how often each outcome came. Fails where one broke."""
    for text in ("text.txt", "other.txt"):
        shutil.copy(FIXTURES[0].parent.parent / text, folder / text)
    command = [
        sys.executable,
        "-m",
        "tests.fuzz.read_damaged",
        str(folder),
        *map(str, [*FIXTURES, *made_of_fixtures(folder)]),
    ]
    done = subprocess.run(
        [*command, "--seed", str(seed), "--count", str(count)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["broken"] == []
    outcomes: dict[str, int] = found["outcomes"]
    return outcomes


def test_a_damaged_file_is_read_or_refused_in_a_sentence(tmp_path: Path) -> None:
    outcomes = read_damaged(tmp_path, 1, FEW)
    # some damage is none (a byte of a name, a weight that is as good as before), and most is found
    assert outcomes["fine"] > FEW / 2
    assert outcomes["sentence"] > FEW


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(MANY // PER_PROCESS))
def test_twenty_thousand_damaged_files_are_read_or_refused_in_a_sentence(seed: int, tmp_path: Path) -> None:
    read_damaged(tmp_path, 100 + seed, PER_PROCESS)
