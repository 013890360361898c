"""Memory of a training beyond the process it runs in, as multiples of its weights, while stepping and in a save.

python benchmarks/memory.py [--hidden 1152] [--layers 2] [--batch 8] [--length 32]

AdamW trains an LSTM on random characters, with a snapshot to roll back to every other step, then scores and saves it.
Weights, gradients, two moments, and a snapshot of weights and moments make 7. Peaks are of VmHWM (/proc/self/status),
which is reset before each part, so Linux is needed.
"""

from __future__ import annotations

import random
import re
import tempfile
import time
from pathlib import Path

import click
import torch

from charrnn.checkpoints.run_dir import Run
from charrnn.config import loading
from charrnn.training import new_run, resume, training_step
from charrnn.training.training_step import Training


def resident(what: str) -> int:
    """Return the process's memory in bytes: VmRSS now, or VmHWM at its peak."""
    found = re.search(rf"{what}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


class Watch:
    """What each part of the work adds to the memory that the process had before, divided by the weights' bytes."""

    def __init__(self) -> None:
        self.before = resident("VmRSS")

    def start(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")  # sets VmHWM to VmRSS
        self.began = time.perf_counter()

    def stop(self, part: str, weights: int) -> None:
        peak, after = (resident(what) - self.before for what in ("VmHWM", "VmRSS"))
        seconds = time.perf_counter() - self.began
        print(f"{part:24} peak {peak / weights:5.1f}  after {after / weights:5.1f}  {seconds:6.2f} s", flush=True)


def steps(training: Training, count: int) -> None:
    for _ in range(count):
        training.step()
    list(training.settle())


@click.command()
@click.option("--hidden", default=1152)
@click.option("--layers", default=2)
@click.option("--batch", default=8)
@click.option("--length", default=32)
def main(hidden: int, layers: int, batch: int, length: int) -> None:
    training_step.SNAPSHOT_EVERY = 2
    text = "".join(random.Random(0).choices("abcdefghijklmnopqrstuvwxyz \n", k=20_000))
    settings = [
        f"model.hidden_size={hidden}",
        f"model.num_layers={layers}",
        "model.embedding_size=64",
        "model.dropout=0",
        f"train.batch_size={batch}",
        f"train.sequence_length={length}",
        "train.steps=1000000",
        "train.eval_every=1000",
        "train.learning_rate=0.001",
        "train.precision=fp32",
        "train.kernel=custom",
        "train.seed=1",
    ]
    with tempfile.TemporaryDirectory() as folder:
        path, run = Path(folder) / "text.txt", Run(Path(folder) / "run")
        path.write_text(text, encoding="utf-8")
        config = loading.load(None, settings).with_values(data={"texts": [str(path)]})
        torch.ones(1).exp_().sum()
        watch = Watch()
        watch.start()
        job = new_run.start(config, run.folder, torch.device("cpu"))
        training = job.training
        weights = sum(tensor.nbytes for tensor in training.model.state_dict().values())
        print(f"LSTM {layers} x {hidden}: {weights / 1e6:.1f} MB of weights; memory in multiples of them")
        watch.stop("start", weights)
        for part in ("6 steps", "6 more"):
            watch.start()
            steps(training, 6)
            watch.stop(part, weights)
        watch.start()
        training.evaluate(lambda _: None)
        watch.stop("evaluation", weights)
        for part, save in (("save the best", training.save_best), ("save the last", training.save_last)):
            watch.start()
            save(job.run)
            watch.stop(part, weights)
        watch.start()
        steps(training, 6)
        watch.stop("6 steps after it", weights)
        job.run.release()
        del job, training, save
        watch.start()
        resumed = resume.resume(run, torch.device("cpu"))
        watch.stop("resume", weights)
        resumed.run.release()


if __name__ == "__main__":
    main()
