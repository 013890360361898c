"""The claim that a training which is killed at any moment, also within a save, ends as if it had not been."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import TEXT

ROOT = Path(__file__).parent.parent.parent
KINDS = {
    "lstm with dropout": ["model.cell=lstm", "model.dropout=0.3"],
    "documents": ["model.cell=lstm", "data.documents=line"],
    "bidirectional": ["model.bidirectional=true"],
    "gru": ["model.cell=gru", "train.kernel=custom"],
}
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs SIGKILL")


def kill(folder: Path, kills: int, seed: int, settings: list[str]) -> int:
    """Kill trainings so often; return how often that was. Fails where one did not go on as if it had not been."""
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    command = [sys.executable, "-m", "tests.fuzz.kill_trainings", str(folder), "--kills", str(kills)]
    done = subprocess.run(
        [*command, "--seed", str(seed), *settings],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return sum(json.loads(done.stdout.splitlines()[-1])["kills"].values())


def test_a_training_that_is_killed_ends_the_same(tmp_path: Path) -> None:
    assert kill(tmp_path, 10, 1, KINDS["lstm with dropout"]) >= 10


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_trainings_of_every_kind_that_are_killed_fifty_times_end_the_same(kind: str, tmp_path: Path) -> None:
    assert kill(tmp_path, 50, 2, KINDS[kind]) >= 50
