"""What a default training makes of short texts: its network, the best n-gram model and the mixture of both.

    python benchmarks/mixture.py TEXT... [--sizes 10000,30000,100000] [--test 100000] [--seed 1] [--to FOLDER]
        [-s SECTION.KEY=VALUE]

Trains on the first characters of each text without options, and counts n-grams of the same; scores the last `--test`
characters of the text, which no run has seen. The last column compares the mixture with the better of the two: below
zero, it is better. Finished runs found in the folder are not trained again.
"""

from __future__ import annotations

import json
import shutil
import statistics
from pathlib import Path
from typing import Any

import click
from presets import charrnn

from charrnn.data import text_files

WAYS = ("network", "n-gram", "mixture")


def trained(text: Path, run: Path, seed: int, settings: tuple[str, ...]) -> Path:
    """Train on a text, unless that has been done, and return the run."""
    if not run.exists():
        # renamed when finished, so that an interrupted run does not count as one
        job = run.with_name(f"{run.name}.unfinished")
        shutil.rmtree(job, ignore_errors=True)
        options = [option for setting in settings for option in ("-s", setting)]
        charrnn("train", "-q", str(text), "-o", str(job), "--seed", str(seed), *options)
        job.rename(run)
    return run


def scored(run: Path, test: Path, *options: str) -> float:
    """Return a model's bits/char on a text."""
    found: dict[str, Any] = json.loads(charrnn("evaluate", "-m", str(run), str(test), "--json", *options))
    return float(found["bits_per_character"])


def compare(text: Path, test: Path, seed: int, settings: tuple[str, ...]) -> tuple[float, float, float]:
    """Return the bits/char of the network, of the n-gram model and of the mixture, all of the same text."""
    network = trained(text, text.with_suffix(".network"), seed, settings)
    counts = trained(text, text.with_suffix(".ngram"), seed, ("model.cell=ngram",))
    return scored(network, test, "--network"), scored(counts, test), scored(network, test)


@click.command()
@click.argument("texts", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--sizes", default="10000,30000,100000")
@click.option("--test", "test_length", default=100_000)
@click.option("--seed", default=1)
@click.option("--to", "folder", default="checkpoints/mixture", type=click.Path(path_type=Path))
@click.option("-s", "--set", "settings", multiple=True)
def main(
    texts: tuple[Path, ...], sizes: str, test_length: int, seed: int, folder: Path, settings: tuple[str, ...]
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    gains = []
    print(f"{'text':16} {'characters':>10}  " + "  ".join(f"{way:>7}" for way in WAYS) + "  against the better of two")
    for name in texts:
        content = text_files.read([str(name)])
        for size in map(int, sizes.split(",")):
            if size + test_length > len(content):
                raise click.ClickException(f"{name} has only {len(content):,} characters.")
            text, test = folder / f"{name.stem}-{size}.txt", folder / f"{name.stem}-test.txt"
            text.write_text(content[:size], encoding="utf-8")
            test.write_text(content[-test_length:], encoding="utf-8")
            bits = compare(text, test, seed, settings)
            gains.append(bits[2] / min(bits[:2]) - 1)
            scores = "  ".join(f"{each:7.4f}" for each in bits)
            print(f"{name.stem[:16]:16} {size:10,}  {scores}  {gains[-1]:+.1%}", flush=True)
    print(f"mean {statistics.mean(gains):+.1%}, worst {max(gains):+.1%}")


if __name__ == "__main__":
    main()
