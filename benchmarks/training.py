"""Training steps: what `precision` and `kernel` make of each cell and size, against torch.nn in fp32.

    python benchmarks/training.py [--cells lstm,gru,rnn] [--sizes 1x256,2x512,2x1024] [--lanes 64] [--length 128]
        [--rounds 5] [--threads 0]
    python benchmarks/training.py --device cuda --cells lstm --sizes 1x256,2x512,3x1024 [--lanes 128,512,2048]

The baseline is the step of every tutorial: nn.Embedding, nn.LSTM, nn.Linear, cross-entropy, clipping, AdamW, whole
windows in fp32, in a process of its own, where freed memory goes the usual way. Each other row is a step of charrnn's
own `Training`. The limit is the products of such a step alone, in bf16 and in fp32, as plain products of matrices of
the same shapes.

On CUDA all run in one process, some steps at a time before anyone waits for the device (the tutorial waits at each),
for each number of lanes that fits; what the best makes is a share of what a large product of matrices in bf16 makes
there. The tutorial's step is there twice: in fp32, and with the rounding (TF32) that torch allows cuDNN by itself.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import statistics
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import click
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from turns import in_turns, report

from charrnn.config.schema import Config
from charrnn.data.corpus import Corpus, CorpusCard, Split
from charrnn.data.vocabulary import Vocabulary
from charrnn.device import bf16_on, choose_device, is_out_of_memory, keep_freed_memory, tf32
from charrnn.models.cells import GATES
from charrnn.training.trainer import Training

EMBEDDING, CHARACTERS = 64, 65
STEPS = 20  # on CUDA, before anyone waits
LARGE = 8192  # rows and columns of the matrices whose product shows what a device can do
CPU = torch.device("cpu")
KINDS = {"fp32": torch.float32, "bf16": torch.bfloat16}


class Tutorial:
    """A step as tutorials have it."""

    @classmethod
    def apart(cls, *arguments: Any) -> Callable[[], object]:
        """Run it in another process; gives how to ask for a step."""
        here, there = multiprocessing.Pipe()
        context = multiprocessing.get_context("spawn")
        context.Process(target=cls.serve, args=(there, torch.get_num_threads(), *arguments), daemon=True).start()

        def step() -> object:
            here.send(None)
            return here.recv()

        return step

    @classmethod
    def serve(cls, pipe: Connection, threads: int, *arguments: Any) -> None:
        torch.set_num_threads(threads)
        made = cls(*arguments)
        with contextlib.suppress(EOFError):  # the other end is gone: nothing more to do
            while True:
                pipe.recv()
                made.step()
                pipe.send(None)

    def __init__(self, cell: str, hidden: int, layers: int, tokens: torch.Tensor) -> None:
        kernel = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}[cell]
        self.tokens = tokens
        self.embedding, self.head = nn.Embedding(CHARACTERS, EMBEDDING), nn.Linear(hidden, CHARACTERS)
        self.kernel = kernel(EMBEDDING, hidden, layers, batch_first=True)
        self.parameters = [*self.embedding.parameters(), *self.kernel.parameters(), *self.head.parameters()]
        for module in (self.embedding, self.kernel, self.head):
            module.to(tokens.device)
        self.optimizer = torch.optim.AdamW(self.parameters)

    def step(self) -> None:
        features, _ = self.kernel(self.embedding(self.tokens[:, :-1]))
        loss = F.cross_entropy(self.head(features).flatten(0, 1), self.tokens[:, 1:].flatten())
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        loss.item()


def training(
    cell: str,
    hidden: int,
    layers: int,
    lanes: int,
    length: int,
    precision: str,
    kernel: str,
    device: torch.device = CPU,
    distinct: int = CHARACTERS,
) -> Training:
    vocabulary = Vocabulary.of("".join(chr(code) for code in range(32, 32 + distinct - 1)) + "\n")
    tokens = np.random.default_rng(0).integers(0, distinct, 4 * lanes * length).astype(vocabulary.dtype)
    part = Split(tokens, np.zeros(1, dtype=np.int64), np.zeros(0, dtype=np.uint32), vocabulary)
    config = Config.model_validate(
        {
            "model": {
                "cell": cell,
                "hidden_size": hidden,
                "num_layers": layers,
                "embedding_size": EMBEDDING,
                "dropout": 0.0,
                "tie_weights": False,
            },
            "train": {
                "batch_size": lanes,
                "sequence_length": length,
                "steps": 10**9,
                "epochs": None,
                "learning_rate": 1e-3,
                "weight_decay": 0.01,
                "precision": precision,
                "kernel": kernel,
                "seed": 1,
            },
        }
    )
    corpus = Corpus(part, part, part, vocabulary, False)
    return Training(config, corpus, CorpusCard("none", "0" * 64, 1, 1, 1), device)


def measured() -> list[str]:
    """List the number formats to measure on a CPU, and say which is left out: some do bf16 by hand, and take hours."""
    if bf16_on(CPU).fast:
        return ["fp32", "bf16"]
    print("bf16 is slow on this CPU, and left out")
    return ["fp32"]


def products(cell: str, hidden: int, layers: int, lanes: int, length: int, kind: torch.dtype) -> tuple[list, float]:
    """Give the products of a step as pairs of matrices and how often each is needed, and their FLOPs."""
    gates, inputs = GATES[cell] * hidden, [EMBEDDING] + [hidden] * (layers - 1)
    pairs = []
    for size in [*inputs, *[hidden] * layers]:
        weight, column = torch.randn(gates, size).to(kind), torch.randn(size, lanes).to(kind)
        gradient, window = torch.randn(gates, lanes).to(kind), torch.randn(size, lanes * length).to(kind)
        pairs.append((weight, column, length))
        pairs.append((weight.t().contiguous(), gradient, length))
        pairs.append((torch.randn(gates, lanes * length).to(kind), window.t(), 1))
    flops = sum(2.0 * one.shape[0] * one.shape[1] * other.shape[1] * times for one, other, times in pairs)
    return pairs, flops


def work(cell: str, hidden: int, layers: int) -> float:
    """Count the FLOPs of one character, of all products there and back, the head's too."""
    inputs = [EMBEDDING] + [hidden] * (layers - 1)
    return 6.0 * (GATES[cell] * hidden * (sum(inputs) + layers * hidden) + hidden * CHARACTERS)


def finished(step: Callable[[], object], device: torch.device, times: int = STEPS) -> Callable[[], None]:
    """Make a way that takes some steps and then waits for the device."""

    def way() -> None:
        for _ in range(times):
            step()
        torch.cuda.synchronize(device)

    return way


def rounded(step: Callable[[], object], device: torch.device) -> Callable[[], None]:
    """Make a step that cuDNN may round in."""

    def way() -> None:
        with tf32(device, True):
            step()

    return way


def at_lanes(
    cell: str, hidden: int, layers: int, count: int, length: int, rounds: int, device: torch.device
) -> tuple[float, str]:
    """Compare all ways for a number of lanes; gives the best of charrnn's, in characters a second, and its name."""
    tokens = torch.randint(CHARACTERS, (count, length + 1), device=device)
    baseline = "torch.nn in fp32"
    tutorial = Tutorial(cell, hidden, layers, tokens)
    ways = {
        baseline: finished(tutorial.step, device),
        "torch.nn, TF32": finished(rounded(tutorial.step, device), device),
    }
    for precision in ("fp32", "bf16"):
        made = training(cell, hidden, layers, count, length, precision, "torch", device)
        ways[f"charrnn {precision}"] = finished(made.step, device)
    amounts = dict.fromkeys(ways, float(STEPS * count * length))
    seconds = in_turns(ways, rounds)
    report(seconds, amounts, "characters", baseline)
    rates = {way: statistics.median(amounts[way] / each for each in seconds[way]) for way in ways if "charrnn" in way}
    return max((rate, f"{way}, {count} lanes") for way, rate in rates.items())


def on_cuda(cells: list[str], sizes: list[str], lanes: list[int], length: int, rounds: int) -> None:
    device = choose_device("cuda")
    kind = torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    one, other = (torch.randn(LARGE, LARGE, device=device, dtype=kind) for _ in range(2))
    name = f"a large product in {'bf16' if kind is torch.bfloat16 else 'fp16'}"
    large = in_turns({name: finished(lambda: torch.mm(one, other), device)}, rounds)
    peak = STEPS * 2.0 * LARGE**3 / statistics.median(large[name])
    print(f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}, {name}: {peak / 1e12:.0f} TFLOP/s")
    for cell in cells:
        for size in sizes:
            layers, hidden = (int(number) for number in size.split("x"))
            print(f"\n{cell} {layers} x {hidden}, {work(cell, hidden, layers) / 1e6:.1f} MFLOP a character")
            best = (0.0, "")
            for count in lanes:
                print(f"{count} lanes of {length}")
                try:
                    best = max(best, at_lanes(cell, hidden, layers, count, length, rounds, device))
                except RuntimeError as error:
                    if not is_out_of_memory(error):
                        raise
                    print("more than the device's memory holds, all ways together")
            if not best[0]:
                continue
            share = best[0] * work(cell, hidden, layers) / peak
            print(f"best: {best[1]}, {best[0]:,.0f} characters/s, {share:.1%} of the large product's rate")


@click.command()
@click.option("--cells", default="lstm,gru,rnn")
@click.option("--sizes", default="1x256,2x512,2x1024")
@click.option("--lanes", "counts", help="64; on CUDA 128,512,2048.")
@click.option("--length", default=128)
@click.option("--rounds", default=5)
@click.option("--threads", default=0, help="0: as many as torch takes.")
@click.option("--device", default="cpu", type=click.Choice(["cpu", "cuda"]))
def main(cells: str, sizes: str, counts: str | None, length: int, rounds: int, threads: int, device: str) -> None:
    if device == "cuda":
        several = [int(count) for count in (counts or "128,512,2048").split(",")]
        on_cuda(cells.split(","), sizes.split(","), several, length, rounds)
        return
    lanes = int(counts or 64)
    torch.set_num_threads(threads or torch.get_num_threads())
    keep_freed_memory()
    print(f"{lanes} lanes of {length} characters, {torch.get_num_threads()} thread(s), torch {torch.__version__}")
    precisions = measured()
    for cell in cells.split(","):
        for size in sizes.split(","):
            layers, hidden = (int(number) for number in size.split("x"))
            tokens = torch.from_numpy(np.random.default_rng(0).integers(0, CHARACTERS, (lanes, length + 1)))
            baseline = "torch.nn in fp32"
            ways = {baseline: Tutorial.apart(cell, hidden, layers, tokens)}
            for precision in precisions:
                for kernel in ("torch", "custom"):
                    made = training(cell, hidden, layers, lanes, length, precision, kernel)
                    ways[f"charrnn {precision} {kernel}"] = made.step
            flops = 0.0
            for precision in precisions:
                pairs, flops = products(cell, hidden, layers, lanes, length, KINDS[precision])

                def multiply(pairs: list = pairs) -> None:
                    for one, other, times in pairs:
                        for _ in range(times):
                            torch.mm(one, other)

                ways[f"products alone, {precision}"] = multiply
            print(f"\n{cell} {layers} x {hidden}, {flops / (lanes * length) / 1e6:.1f} MFLOP a character")
            seconds = in_turns(ways, rounds)
            report(seconds, dict.fromkeys(ways, lanes * length), "characters", baseline)
            best, limit = (
                min((name for name in ways if name.startswith(kind)), key=lambda name: sorted(seconds[name]))
                for kind in ("charrnn", "products")
            )
            share = statistics.median(one / other for one, other in zip(seconds[limit], seconds[best], strict=True))
            rate = flops / min(seconds[limit]) / 1e9
            print(f"best: {best}, {share:.0%} of the rate of {limit} ({rate:.0f} GFLOP/s at best)")


if __name__ == "__main__":
    main()
