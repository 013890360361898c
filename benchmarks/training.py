"""Speed of training steps by cell, size, `precision` and `kernel`, compared with torch.nn in fp32.

    python benchmarks/training.py [--cells lstm,gru,rnn] [--sizes 1x256,2x512,2x1024] [--batch 64] [--length 128]
        [--rounds 5] [--threads 0]
    python benchmarks/training.py --device cuda --cells lstm --sizes 1x256,2x512,3x1024 [--batch 128,512,2048]

The baseline is the usual tutorial step: nn.Embedding, nn.LSTM, nn.Linear, cross-entropy, clipping, AdamW, in fp32, in
a process of its own, so that charrnn's memory settings do not apply to it. Each other row is a step of charrnn's
`Training`. The limit is the matrix products of such a step alone, in bf16 and in fp32.

On CUDA all run in one process, with one synchronization after several steps (the tutorial synchronizes at each), for
each batch size that fits in memory; the best is given as a share of the rate of a large matrix product in bf16. The
tutorial step is measured twice: in fp32, and with TF32, which torch allows cuDNN by default.
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
from charrnn.models.cells import CELLS
from charrnn.training.training_step import Training

EMBEDDING, CHARACTERS = 64, 65
STEPS = 20  # on CUDA, between synchronizations
LARGE = 8192  # rows and columns of the matrices whose product measures peak speed
CPU = torch.device("cpu")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class Tutorial:
    """A training step as in tutorials."""

    @classmethod
    def in_process(cls, *arguments: Any) -> Callable[[], object]:
        """Start it in another process; return a function that runs one step there."""
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
        tutorial = cls(*arguments)
        with contextlib.suppress(EOFError):  # the parent process has ended
            while True:
                pipe.recv()
                tutorial.step()
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


def make_training(
    cell: str,
    hidden: int,
    layers: int,
    batch_size: int,
    length: int,
    precision: str,
    kernel: str,
    device: torch.device = CPU,
    distinct: int = CHARACTERS,
) -> Training:
    vocabulary = Vocabulary.from_text("".join(chr(code) for code in range(32, 32 + distinct - 1)) + "\n")
    tokens = np.random.default_rng(0).integers(0, distinct, 4 * batch_size * length).astype(vocabulary.dtype)
    split = Split(tokens, np.zeros(1, dtype=np.int64), np.zeros(0, dtype=np.uint32), vocabulary)
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
                "batch_size": batch_size,
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
    corpus = Corpus(split, split, split, vocabulary, False)
    return Training(config, corpus, CorpusCard("none", "0" * 64, 1, 1, 1), device)


def precisions_to_measure() -> list[str]:
    """Return the precisions to measure on a CPU, without bf16 where it is emulated, which would take hours."""
    if bf16_on(CPU).fast:
        return ["fp32", "bf16"]
    print("bf16 is slow on this CPU: skipped")
    return ["fp32"]


def products(
    cell: str, hidden: int, layers: int, batch_size: int, length: int, dtype: torch.dtype
) -> tuple[list, float]:
    """Return the matrix products of a step, as pairs of matrices and how often each is needed, and their FLOPs."""
    gates, inputs = CELLS[cell].gates * hidden, [EMBEDDING] + [hidden] * (layers - 1)
    pairs = []
    for size in [*inputs, *[hidden] * layers]:
        weight, column = torch.randn(gates, size).to(dtype), torch.randn(size, batch_size).to(dtype)
        gradient, window = torch.randn(gates, batch_size).to(dtype), torch.randn(size, batch_size * length).to(dtype)
        pairs.append((weight, column, length))
        pairs.append((weight.t().contiguous(), gradient, length))
        pairs.append((torch.randn(gates, batch_size * length).to(dtype), window.t(), 1))
    flops = sum(2.0 * one.shape[0] * one.shape[1] * other.shape[1] * times for one, other, times in pairs)
    return pairs, flops


def flops_per_character(cell: str, hidden: int, layers: int) -> float:
    """Count the FLOPs of a character: all products forward and backward, with the head's."""
    inputs = [EMBEDDING] + [hidden] * (layers - 1)
    return 6.0 * (CELLS[cell].gates * hidden * (sum(inputs) + layers * hidden) + hidden * CHARACTERS)


def synchronized(step: Callable[[], object], device: torch.device, times: int = STEPS) -> Callable[[], None]:
    """Return a function that takes some steps and then waits for the device."""

    def steps() -> None:
        for _ in range(times):
            step()
        torch.cuda.synchronize(device)

    return steps


def in_tf32(step: Callable[[], object], device: torch.device) -> Callable[[], None]:
    """Return a step in which cuDNN may use TF32."""

    def wrapped() -> None:
        with tf32(device, True):
            step()

    return wrapped


def compare(
    cell: str, hidden: int, layers: int, batch_size: int, length: int, rounds: int, device: torch.device
) -> tuple[float, str]:
    """Compare all ways at one batch size; return the rate of charrnn's best, in characters a second, and its name."""
    tokens = torch.randint(CHARACTERS, (batch_size, length + 1), device=device)
    baseline = "torch.nn in fp32"
    tutorial = Tutorial(cell, hidden, layers, tokens)
    ways = {
        baseline: synchronized(tutorial.step, device),
        "torch.nn, TF32": synchronized(in_tf32(tutorial.step, device), device),
    }
    for precision in ("fp32", "bf16"):
        job = make_training(cell, hidden, layers, batch_size, length, precision, "torch", device)
        ways[f"charrnn {precision}"] = synchronized(job.step, device)
    amounts = dict.fromkeys(ways, float(STEPS * batch_size * length))
    seconds = in_turns(ways, rounds)
    report(seconds, amounts, "characters", baseline)
    rates = {way: statistics.median(amounts[way] / each for each in seconds[way]) for way in ways if "charrnn" in way}
    return max((rate, f"{way}, batch size {batch_size}") for way, rate in rates.items())


def on_cuda(cells: list[str], sizes: list[str], batch_sizes: list[int], length: int, rounds: int) -> None:
    device = choose_device("cuda")
    dtype = torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    one, other = (torch.randn(LARGE, LARGE, device=device, dtype=dtype) for _ in range(2))
    name = f"a large matrix product in {'bf16' if dtype is torch.bfloat16 else 'fp16'}"
    large = in_turns({name: synchronized(lambda: torch.mm(one, other), device)}, rounds)
    peak = STEPS * 2.0 * LARGE**3 / statistics.median(large[name])
    print(f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}, {name}: {peak / 1e12:.0f} TFLOP/s")
    for cell in cells:
        for size in sizes:
            layers, hidden = (int(number) for number in size.split("x"))
            print(
                f"\n{cell} {layers} x {hidden}, {flops_per_character(cell, hidden, layers) / 1e6:.1f} MFLOP a character"
            )
            best = (0.0, "")
            for batch_size in batch_sizes:
                print(f"batch size {batch_size}, length {length}")
                try:
                    best = max(best, compare(cell, hidden, layers, batch_size, length, rounds, device))
                except RuntimeError as error:
                    if not is_out_of_memory(error):
                        raise
                    print("out of memory with all ways together")
            if not best[0]:
                continue
            share = best[0] * flops_per_character(cell, hidden, layers) / peak
            print(f"best: {best[1]}, {best[0]:,.0f} characters/s, {share:.1%} of the rate of the large matrix product")


@click.command()
@click.option("--cells", default="lstm,gru,rnn")
@click.option("--sizes", default="1x256,2x512,2x1024")
@click.option("--batch", "batch_sizes", help="64; on CUDA 128,512,2048.")
@click.option("--length", default=128)
@click.option("--rounds", default=5)
@click.option("--threads", default=0, help="0: torch's default.")
@click.option("--device", default="cpu", type=click.Choice(["cpu", "cuda"]))
def main(cells: str, sizes: str, batch_sizes: str | None, length: int, rounds: int, threads: int, device: str) -> None:
    if device == "cuda":
        several = [int(each) for each in (batch_sizes or "128,512,2048").split(",")]
        on_cuda(cells.split(","), sizes.split(","), several, length, rounds)
        return
    batch_size = int(batch_sizes or 64)
    torch.set_num_threads(threads or torch.get_num_threads())
    keep_freed_memory()
    print(f"batch size {batch_size}, length {length}, {torch.get_num_threads()} thread(s), torch {torch.__version__}")
    precisions = precisions_to_measure()
    for cell in cells.split(","):
        for size in sizes.split(","):
            layers, hidden = (int(number) for number in size.split("x"))
            tokens = torch.from_numpy(np.random.default_rng(0).integers(0, CHARACTERS, (batch_size, length + 1)))
            baseline = "torch.nn in fp32"
            ways = {baseline: Tutorial.in_process(cell, hidden, layers, tokens)}
            for precision in precisions:
                for kernel in ("torch", "custom"):
                    job = make_training(cell, hidden, layers, batch_size, length, precision, kernel)
                    ways[f"charrnn {precision} {kernel}"] = job.step
            flops = 0.0
            for precision in precisions:
                pairs, flops = products(cell, hidden, layers, batch_size, length, DTYPES[precision])

                def multiply(pairs: list = pairs) -> None:
                    for one, other, times in pairs:
                        for _ in range(times):
                            torch.mm(one, other)

                ways[f"matrix products alone, {precision}"] = multiply
            print(f"\n{cell} {layers} x {hidden}, {flops / (batch_size * length) / 1e6:.1f} MFLOP a character")
            seconds = in_turns(ways, rounds)
            report(seconds, dict.fromkeys(ways, batch_size * length), "characters", baseline)
            best, limit = (
                min((name for name in ways if name.startswith(kind)), key=lambda name: sorted(seconds[name]))
                for kind in ("charrnn", "matrix products")
            )
            share = statistics.median(one / other for one, other in zip(seconds[limit], seconds[best], strict=True))
            rate = flops / min(seconds[limit]) / 1e9
            print(f"best: {best}, {share:.0%} of the rate of {limit} ({rate:.0f} GFLOP/s at best)")


if __name__ == "__main__":
    main()
