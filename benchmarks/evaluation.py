"""Speed of `evaluate` on a CPU, in characters a second, compared with that of training steps.

python benchmarks/evaluation.py [--cells lstm,gru,rnn] [--sizes 2x512] [--batch 64] [--characters 1000000]
    [--distinct 65] [--rounds 3]
"""

from __future__ import annotations

from functools import partial

import click
import numpy as np
import torch
from training import CHARACTERS, CPU, make_training, precisions_to_measure
from turns import in_turns, report

from charrnn.device import keep_freed_memory
from charrnn.evaluation import scoring


@click.command()
@click.option("--cells", default="lstm,gru,rnn")
@click.option("--sizes", default="2x512")
@click.option("--characters", default=1_000_000)
@click.option("--distinct", default=CHARACTERS)
@click.option("--batch", "batch_size", default=64)
@click.option("--rounds", default=3)
def main(cells: str, sizes: str, characters: int, distinct: int, batch_size: int, rounds: int) -> None:
    keep_freed_memory()  # as the commands do
    precisions = precisions_to_measure()
    for cell in cells.split(","):
        for size in sizes.split(","):
            layers, hidden = (int(number) for number in size.split("x"))
            ways, amounts = {}, {}
            for precision in precisions:
                for kernel in ("torch", "custom"):
                    job = make_training(cell, hidden, layers, batch_size, 128, precision, kernel, CPU, distinct)
                    ways[f"training, {precision} {kernel}"] = job.step
                    amounts[f"training, {precision} {kernel}"] = float(batch_size * 128)
            tokens = np.random.default_rng(1).integers(0, distinct, characters).astype(job.vocabulary.dtype)
            job.model.use_custom_kernel(False)  # as in `charrnn evaluate`
            ways["evaluation"] = partial(scoring.evaluate, job.model, job.vocabulary, tokens)
            amounts["evaluation"] = float(characters)
            print(f"{cell} {layers} x {hidden}, {torch.get_num_threads()} thread(s)")
            report(in_turns(ways, rounds), amounts, "characters", "training, fp32 torch")


if __name__ == "__main__":
    main()
