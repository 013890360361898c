"""What a character of a long streamed sample costs, and the memory of the process, as the sample grows.

    python benchmarks/long_samples.py [--characters 10000000] [--hidden 32]
    python benchmarks/long_samples.py --until 100 --no-copy 20
    python benchmarks/long_samples.py --characters 1000000 --no-repeat 100

One GRU layer with random weights, which do not matter, and 65 characters, on one thread. --until N is a stop text of N
characters that never comes, --no-copy N learns a random text of a million characters. Time is the processor's, over the
characters since the line before; memory is the most that the process has held, less what it held before the first one.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import sys
import time

import click
import numpy as np

from charrnn.data.vocabulary import Vocabulary
from charrnn.generation.copying import CopyIndex
from charrnn.generation.filters import Filters
from charrnn.generation.sampling import MIN_P, TEMPERATURE, Sampler
from charrnn.models import numpy_model
from charrnn.models.architecture import Architecture

SIZE = 65  # characters
LEARNED = 1_000_000


def megabytes() -> float:
    """Return the most memory that this process has held."""
    import resource  # which Windows does not have

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)


@click.command()
@click.option("--characters", default=10_000_000)
@click.option("--hidden", default=32)
@click.option("--until", type=int)
@click.option("--no-copy", type=int)
@click.option("--no-repeat", type=int)
def main(characters: int, hidden: int, until: int | None, no_copy: int | None, no_repeat: int | None) -> None:
    vocabulary = Vocabulary.from_text("".join(chr(code) for code in range(0x4E00, 0x4E00 + SIZE - 1)))
    architecture = Architecture("gru", hidden, num_layers=1, embedding_size=hidden, tie_weights=True)
    dice = np.random.default_rng(0)
    weights = {name: dice.normal(0, 0.1, shape).astype(np.float32) for name, shape in architecture.shapes(SIZE).items()}
    learned = dice.integers(0x4E00, 0x4E00 + SIZE - 1, LEARNED, dtype=np.uint32)
    sampler = Sampler(
        numpy_model.build(architecture, weights),
        vocabulary,
        [""],
        characters,
        Filters(temperature=TEMPERATURE, min_p=MIN_P),
        seed=0,
        indices=[0],
        until=None if until is None else vocabulary.characters[:1] * (until - 1) + "x",
        no_copy=None if no_copy is None else CopyIndex(learned, no_copy),
        no_repeat=no_repeat,
        keep_text=False,
    )
    print(f"{'characters':>12} {'microseconds each':>18} {'MB':>7}")
    written, shown, started, before = 0, min(10_000, characters), time.process_time(), megabytes()
    last = 0
    for (text,) in sampler:
        written += len(text)
        if written >= shown:
            now = time.process_time()
            print(f"{written:>12,} {(now - started) / (written - last) * 1e6:>18.1f} {megabytes() - before:>7.1f}")
            sys.stdout.flush()
            shown, last, started = min(shown * 10, characters) if shown < characters else characters + 1, written, now


if __name__ == "__main__":
    main()
