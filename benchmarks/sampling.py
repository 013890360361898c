"""Speed of sampling, compared with torch.nn modules one step at a time and with the machine's own limits.

    python benchmarks/sampling.py [--cell lstm] [--hidden 512] [--layers 2] [--vocabulary 65] [--rounds 7]
    OPENBLAS_NUM_THREADS=2 python benchmarks/sampling.py
    python benchmarks/sampling.py --patterns [--hidden 128] [--layers 1]
    python benchmarks/sampling.py --mixture MODEL
    python benchmarks/sampling.py --device cuda [--batch 1,1024]

One thread, or as many as OPENBLAS_NUM_THREADS says, for torch too. Weights are random: they do not matter.
The limits are the matrix products of a step alone, W h for every matrix that a character takes: with weights read from
memory (so many copies in turn that no cache holds them), and with the same weights again and again.

With --patterns, sampling alone: without a pattern, and in the form of some.

With --mixture, sampling with a mixture that was trained, with its network alone, and with all of its n-grams.

On CUDA, for each batch size: the step alone, launched kernel by kernel and replayed as a CUDA graph, and then sampling
with its choices; torch.nn draws its characters there as well, on the device.
"""

from __future__ import annotations

import os
from functools import partial

THREADS = int(os.environ.setdefault("OPENBLAS_NUM_THREADS", "1"))

import click  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import nn  # noqa: E402
from turns import in_turns, report  # noqa: E402

from charrnn.checkpoints import inference, run_dir  # noqa: E402
from charrnn.config.schema import ModelConfig  # noqa: E402
from charrnn.data.vocabulary import Vocabulary  # noqa: E402
from charrnn.device import choose_device  # noqa: E402
from charrnn.generation.filters import Filters  # noqa: E402
from charrnn.generation.patterns import Pattern  # noqa: E402
from charrnn.generation.sampling import MIN_P, TEMPERATURE, Sampler  # noqa: E402
from charrnn.models import architecture, numpy_model  # noqa: E402
from charrnn.models.char_rnn import CharRNN  # noqa: E402
from charrnn.models.interface import LanguageModel  # noqa: E402
from charrnn.models.ngram_mixture import NgramMixture, for_sampling  # noqa: E402
from charrnn.models.torch_model import TorchModel, cuda_graph  # noqa: E402

BATCH = 64
LENGTH = 100  # steps at a time on CUDA
CACHES = 512 << 20  # bytes, more than any cache holds
PATTERNS = (".*", r"[^\n]{1,60}(\n[^\n]{0,60})*", r"(\w{5}\n)*", r"[^\n]*一.{20}[^\n]*")


class Tutorial:
    """Sampling as in tutorials: a step, a draw, and on to the next."""

    def __init__(self, cell: str, hidden: int, layers: int, size: int, device: torch.device | None = None) -> None:
        self.embedding, self.head = nn.Embedding(size, 64, device=device), nn.Linear(hidden, size, device=device)
        kernel = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}[cell]
        self.kernel, self.device = kernel(64, hidden, layers, batch_first=True, device=device), device

    @torch.inference_mode()
    def sample(self, length: int, batch_size: int = 1) -> None:
        token, state = torch.zeros(batch_size, 1, dtype=torch.long, device=self.device), None
        for _ in range(length):
            features, state = self.kernel(self.embedding(token), state)
            token = torch.multinomial((self.head(features[:, -1]) / TEMPERATURE).softmax(-1), 1)
            token.tolist()


def sample(
    model: LanguageModel, vocabulary: Vocabulary, length: int, batch_size: int, pattern: str | None = None
) -> None:
    filters, primes = Filters(temperature=TEMPERATURE, min_p=MIN_P), [""] * batch_size
    form = None if pattern is None else Pattern(pattern)
    sampler = Sampler(model, vocabulary, primes, length, filters, seed=0, indices=range(batch_size), pattern=form)
    for _ in sampler:
        pass


def of_mixture(name: str, rounds: int) -> None:
    """Compare sampling with a mixture and with its network alone."""
    mixture, vocabulary = inference.load(run_dir.find_model(name))
    assert isinstance(mixture, NgramMixture), f"{name} is no mixture"
    models = {
        "network alone": mixture.network,
        "mixture": for_sampling(mixture, mixture=True),
        "with all n-grams": mixture,
    }
    for batch_size, length in ((1, 400), (BATCH, 40)):
        ways = {each: partial(sample, model, vocabulary, length, batch_size) for each, model in models.items()}
        print(f"\n{batch_size} sample(s) at once")
        report(in_turns(ways, rounds), dict.fromkeys(ways, batch_size * length), "characters", "network alone")


def in_forms(model: LanguageModel, vocabulary: Vocabulary, rounds: int) -> None:
    for batch_size, length in ((1, 600), (BATCH, 120)):  # a multiple of the lines, so that none ends sooner
        ways = {"no pattern": partial(sample, model, vocabulary, length, batch_size)}
        ways |= {each: partial(sample, model, vocabulary, length, batch_size, each) for each in PATTERNS}
        print(f"\n{batch_size} sample(s) at once")
        report(in_turns(ways, rounds), dict.fromkeys(ways, batch_size * length), "characters", "no pattern")


def run_steps(model: LanguageModel, length: int, batch_size: int) -> None:
    state, tokens = model.initial_state(batch_size), np.zeros((batch_size, 1), dtype=np.int64)
    for _ in range(length):
        _, state = model.step(tokens, state)


def on_cuda(model: CharRNN, vocabulary: Vocabulary, batch_sizes: list[int], rounds: int) -> None:
    device = choose_device("cuda")
    config = model.config
    tutorial = Tutorial(config.cell, int(config.hidden_size), int(config.num_layers), len(vocabulary), device)
    replayed, plain = TorchModel(model.to(device), cuda_graph), TorchModel(model)
    print(f"{config.cell} {config.num_layers} x {config.hidden_size}, {torch.cuda.get_device_name(device)}")
    for batch_size in batch_sizes:
        ways = {
            "torch.nn a step at a time": partial(tutorial.sample, LENGTH, batch_size),
            "charrnn, steps kernel by kernel": partial(run_steps, plain, LENGTH, batch_size),
            "charrnn, steps replayed": partial(run_steps, replayed, LENGTH, batch_size),
            "charrnn, sampling": partial(sample, replayed, vocabulary, LENGTH, batch_size),
        }
        print(f"\nbatch of {batch_size}")
        seconds = in_turns(ways, rounds)  # each copies its results to the CPU, and so has waited for the device
        report(seconds, dict.fromkeys(ways, batch_size * LENGTH), "characters", "torch.nn a step at a time")


@click.command()
@click.option("--cell", default="lstm", type=click.Choice(["lstm", "gru", "rnn"]))
@click.option("--hidden", default=512)
@click.option("--layers", default=2)
@click.option("--vocabulary", "size", default=65)
@click.option("--rounds", default=7)
@click.option("--patterns", is_flag=True, help="Compare sampling with and without patterns.")
@click.option("--mixture", metavar="MODEL", help="Compare a mixture with its network.")
@click.option("--device", default="cpu", type=click.Choice(["cpu", "cuda"]))
@click.option("--batch", default="1,1024", help="Batch sizes on CUDA.")
def main(
    cell: str,
    hidden: int,
    layers: int,
    size: int,
    rounds: int,
    patterns: bool,
    mixture: str | None,
    device: str,
    batch: str,
) -> None:
    torch.set_num_threads(THREADS)
    if mixture is not None:
        of_mixture(mixture, rounds)
        return
    config = ModelConfig.model_validate(
        {
            "cell": cell,
            "hidden_size": hidden,
            "num_layers": layers,
            "embedding_size": 64,
            "dropout": 0.0,
            "tie_weights": False,
        }
    )
    vocabulary = Vocabulary.from_text("".join(chr(code) for code in range(0x4E00, 0x4E00 + size - 1)))
    model = CharRNN(config, len(vocabulary))
    model.initialise(torch.Generator().manual_seed(0))
    if device == "cuda":
        on_cuda(model, vocabulary, [int(each) for each in batch.split(",")], rounds)
        return
    weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    numpy = numpy_model.build(architecture.Architecture.of(config.model_dump()), weights)
    if patterns:
        print(f"{cell} {layers} x {hidden}, {size} characters, {THREADS} thread(s)")
        in_forms(numpy, vocabulary, rounds)
        return
    matrices = [array for name, array in weights.items() if "weight_hh" in name or name == "head"]
    matrices += [weights[f"layers.{layer}.kernel.weight_ih_l0"] for layer in range(1, layers)]
    needed = sum(array.nbytes for array in matrices)
    copies = [[array.copy() for array in matrices] for _ in range(CACHES // needed + 1)]
    vectors = {array.shape[1]: np.ones(array.shape[1], array.dtype) for array in matrices}

    tutorial = Tutorial(cell, hidden, layers, size)

    def products(sets: list[list[np.ndarray[tuple[int, ...], np.dtype[np.floating]]]]) -> None:
        for arrays in sets:
            for array in arrays:
                array @ vectors[array.shape[1]]

    name = f"{cell} {layers} x {hidden}, {size} characters, {needed / 1e6:.1f} MB a step, {THREADS} thread(s)"
    print(name)
    ways = {
        "torch.nn a step at a time": (40, lambda: tutorial.sample(40)),
        "charrnn, 1 sample": (400, lambda: sample(numpy, vocabulary, 400, 1)),
        f"charrnn, {BATCH} samples at once": (BATCH * 40, lambda: sample(numpy, vocabulary, 40, BATCH)),
        "products, weights from memory": (len(copies), lambda: products(copies)),
        "products, weights from cache": (400, lambda: products(copies[:1] * 400)),
    }
    seconds = in_turns({name: way for name, (_, way) in ways.items()}, rounds)
    report(seconds, {name: amount for name, (amount, _) in ways.items()}, "characters", "torch.nn a step at a time")
    for other in ("products, weights from memory", "products, weights from cache", f"charrnn, {BATCH} samples at once"):
        amount, base = ways[other][0], ways["charrnn, 1 sample"][0]
        pairs = zip(seconds["charrnn, 1 sample"], seconds[other], strict=True)
        share = float(np.median([(base / mine) / (amount / theirs) for mine, theirs in pairs]))
        print(f"charrnn, 1 sample: {share:.2f} of {other}")


if __name__ == "__main__":
    main()
