"""Writing on a CPU: charrnn's decoder against torch.nn modules a step at a time, and against the machine's own limits.

    python benchmarks/sampling.py [--cell lstm] [--hidden 512] [--layers 2] [--vocabulary 65] [--rounds 7]
    OPENBLAS_NUM_THREADS=2 python benchmarks/sampling.py

One thread, unless OPENBLAS_NUM_THREADS says otherwise; torch gets as many. Weights are random: they do not matter.
The limits are the products of a step alone, W h for every matrix that a character meets: with the weights taken from
memory (so many copies in turn that no cache holds them), and again and again from wherever the machine keeps them.
"""

from __future__ import annotations

import os

THREADS = int(os.environ.setdefault("OPENBLAS_NUM_THREADS", "1"))

import click  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import nn  # noqa: E402
from turns import in_turns, report  # noqa: E402

from charrnn import decoder  # noqa: E402
from charrnn.config import ModelConfig  # noqa: E402
from charrnn.filters import Filters  # noqa: E402
from charrnn.model import CharRNN  # noqa: E402
from charrnn.sample import MIN_P, TEMPERATURE, Writer  # noqa: E402
from charrnn.vocabulary import Vocabulary  # noqa: E402

LANES = 64
CACHES = 512 << 20  # bytes that no cache holds


@click.command()
@click.option("--cell", default="lstm", type=click.Choice(["lstm", "gru", "rnn"]))
@click.option("--hidden", default=512)
@click.option("--layers", default=2)
@click.option("--vocabulary", "size", default=65)
@click.option("--rounds", default=7)
def main(cell: str, hidden: int, layers: int, size: int, rounds: int) -> None:
    torch.set_num_threads(THREADS)
    config = ModelConfig.model_validate(
        {"cell": cell, "hidden_size": hidden, "num_layers": layers, "embedding_size": 64, "dropout": 0.0}
    )
    vocabulary = Vocabulary.of("".join(chr(code) for code in range(0x4E00, 0x4E00 + size - 1)))
    model = CharRNN(config, len(vocabulary))
    model.initialise(torch.Generator().manual_seed(0))
    weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    reader = decoder.make(decoder.Architecture.of(config.model_dump()), weights)
    met = [array for name, array in weights.items() if "weight_hh" in name or name == "head"]
    met += [weights[f"layers.{layer}.kernel.weight_ih_l0"] for layer in range(1, layers)]
    needed = sum(array.nbytes for array in met)
    copies = [[array.copy() for array in met] for _ in range(CACHES // needed + 1)]
    vectors = {array.shape[1]: np.ones(array.shape[1], array.dtype) for array in met}

    embedding, head = nn.Embedding(size, 64), nn.Linear(hidden, size)
    kernel = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}[cell](64, hidden, layers, batch_first=True)

    @torch.inference_mode()
    def tutorial(length: int) -> None:
        token, state = torch.zeros(1, 1, dtype=torch.long), None
        for _ in range(length):
            features, state = kernel(embedding(token), state)
            token = torch.multinomial((head(features[:, -1]) / TEMPERATURE).softmax(-1), 1)
            token.item()

    def written(length: int, lanes: int) -> None:
        writer = Writer(
            reader,
            vocabulary,
            [""] * lanes,
            length,
            Filters(TEMPERATURE, min_p=MIN_P),
            seed=0,
            indices=list(range(lanes)),
        )
        for _ in writer:
            pass

    def products(sets: list[list[np.ndarray[tuple[int, ...], np.dtype[np.floating]]]]) -> None:
        for arrays in sets:
            for array in arrays:
                array @ vectors[array.shape[1]]

    name = f"{cell} {layers} x {hidden}, {size} characters, {needed / 1e6:.1f} MB a step, {THREADS} thread(s)"
    print(name)
    ways = {
        "torch.nn a step at a time": (40, lambda: tutorial(40)),
        "charrnn, 1 sample": (400, lambda: written(400, 1)),
        f"charrnn, {LANES} samples at once": (LANES * 40, lambda: written(40, LANES)),
        "products, weights from memory": (len(copies), lambda: products(copies)),
        "products, weights from cache": (400, lambda: products(copies[:1] * 400)),
    }
    seconds = in_turns({name: way for name, (_, way) in ways.items()}, rounds)
    report(seconds, {name: amount for name, (amount, _) in ways.items()}, "characters", "torch.nn a step at a time")
    for other in ("products, weights from memory", "products, weights from cache", f"charrnn, {LANES} samples at once"):
        amount, base = ways[other][0], ways["charrnn, 1 sample"][0]
        pairs = zip(seconds["charrnn, 1 sample"], seconds[other], strict=True)
        share = float(np.median([(base / mine) / (amount / theirs) for mine, theirs in pairs]))
        print(f"charrnn, 1 sample: {share:.2f} of {other}")


if __name__ == "__main__":
    main()
