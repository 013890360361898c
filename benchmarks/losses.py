"""Effect of precision and kernel on the loss after 200 steps, compared with the effect of the seed.

python benchmarks/losses.py [TEXT] [--cell lstm] [--hidden 256] [--layers 2] [--steps 200] [--seeds 3]

A seed decides weights and batches, so all ways with one seed see the same. Prints the mean training loss of the last 20
steps, in bits per character.
"""

from __future__ import annotations

import statistics
from pathlib import Path

import click
import torch

from charrnn.config.schema import Config
from charrnn.data import corpus
from charrnn.data.corpus import CorpusCard
from charrnn.training.events import StepDone
from charrnn.training.training_step import Training

WAYS = [(precision, kernel) for precision in ("fp32", "bf16") for kernel in ("torch", "custom")]
TEXT = Path(__file__).parent.parent / "data" / "beijing.txt"


@click.command()
@click.argument("text", default=str(TEXT))
@click.option("--cell", default="lstm")
@click.option("--hidden", default=256)
@click.option("--layers", default=2)
@click.option("--steps", default=200)
@click.option("--seeds", default=3)
def main(text: str, cell: str, hidden: int, layers: int, steps: int, seeds: int) -> None:
    losses: dict[tuple[str, str], list[float]] = {way: [] for way in WAYS}
    print(f"{cell} {layers} x {hidden}, {steps} steps, bits/char of the last 20")
    for seed in range(seeds):
        for precision, kernel in WAYS:
            sizes = {
                "cell": cell,
                "hidden_size": hidden,
                "num_layers": layers,
                "embedding_size": 64,
                "dropout": 0.0,
                "tie_weights": False,
            }
            train = {"batch_size": 16, "epochs": None, "steps": steps, "learning_rate": 4e-3, "weight_decay": 0.01}
            config = Config.model_validate(
                {
                    "data": {"texts": [text]},
                    "model": sizes,
                    "train": {**train, "precision": precision, "kernel": kernel, "seed": seed},
                }
            )
            read, digest = corpus.read(config.data, seed, text)
            training = Training(config, read, CorpusCard(text, digest, 1, 1, 1), torch.device("cpu"))
            reports = [training.step() for _ in range(steps)]
            tail = [report.bits_per_character for report in reports[-20:] if isinstance(report, StepDone)]
            losses[precision, kernel].append(statistics.mean(tail))
        print(f"seed {seed}: " + ", ".join(f"{' '.join(way)} {found[-1]:.4f}" for way, found in losses.items()))
    base = losses["fp32", "torch"]
    print(f"fp32 torch: standard deviation over seeds {statistics.stdev(base):.4f}")
    for way, found in losses.items():
        gaps = [mine - theirs for mine, theirs in zip(found, base, strict=True)]
        print(f"{' '.join(way)}: {statistics.mean(gaps):+.4f} on average compared with fp32 torch (by seed: {gaps})")


if __name__ == "__main__":
    main()
