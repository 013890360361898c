"""Scoring against learning on a CPU: characters a second of `evaluate` in lanes, and of the training step beside it.

python benchmarks/evaluation.py [--cells lstm,gru,rnn] [--sizes 2x512] [--lanes 64] [--characters 1000000]
    [--distinct 65] [--rounds 3]
"""

from __future__ import annotations

from functools import partial

import click
import numpy as np
import torch
from training import CHARACTERS, CPU, measured, training
from turns import in_turns, report

from charrnn.device import keep_freed_memory
from charrnn.evaluation import scoring


@click.command()
@click.option("--cells", default="lstm,gru,rnn")
@click.option("--sizes", default="2x512")
@click.option("--characters", default=1_000_000)
@click.option("--distinct", default=CHARACTERS)
@click.option("--lanes", default=64)
@click.option("--rounds", default=3)
def main(cells: str, sizes: str, characters: int, distinct: int, lanes: int, rounds: int) -> None:
    keep_freed_memory()  # as the commands do
    precisions = measured()
    for cell in cells.split(","):
        for size in sizes.split(","):
            layers, hidden = (int(number) for number in size.split("x"))
            ways, amounts = {}, {}
            for precision in precisions:
                for kernel in ("torch", "custom"):
                    made = training(cell, hidden, layers, lanes, 128, precision, kernel, CPU, distinct)
                    ways[f"training, {precision} {kernel}"] = made.step
                    amounts[f"training, {precision} {kernel}"] = float(lanes * 128)
            tokens = np.random.default_rng(1).integers(0, distinct, characters).astype(made.vocabulary.dtype)
            made.model.use_custom_kernel(False)  # as `charrnn evaluate` reads
            ways["evaluation"] = partial(scoring.evaluate, made.model, made.vocabulary, tokens)
            amounts["evaluation"] = float(characters)
            print(f"{cell} {layers} x {hidden}, {torch.get_num_threads()} thread(s)")
            report(in_turns(ways, rounds), amounts, "characters", "training, fp32 torch")


if __name__ == "__main__":
    main()
