"""Models and sources whose reach is known: what is measured is the truth.
Sizes: V=3 vocabulary."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from charrnn.data.vocabulary import Vocabulary
from charrnn.inspection import reach
from charrnn.models import numpy_model
from charrnn.models.architecture import Architecture
from charrnn.models.numpy_model import NumpyModel
from tests.conftest import close

DIGITS = Path(__file__).parents[2] / "data" / "digits.txt"
V = 3
VOCABULARY = Vocabulary("\nab", seen=1000, novel=1, unseen=100)


def source(length: int, order: int, seed: int = 1) -> tuple[str, npt.NDArray[Any]]:
    """Draw a text in which each character depends on the last `order`, by a random table; return both."""
    generator = np.random.default_rng(seed)
    table = generator.dirichlet([0.3] * V, size=(V,) * order)
    tokens = [0] * order
    while len(tokens) < length + order:
        tokens.append(int(generator.choice(V, p=table[tuple(tokens[-order:])])))
    return "".join(VOCABULARY.characters[token] for token in tokens[order:]), table


def markov(table: npt.NDArray[Any]) -> NumpyModel:
    """Build the ReLU network that predicts an order-2 source exactly: a unit for each character that was just read, and
    one for each pair of two."""
    hidden = V + V * V
    architecture = Architecture("rnn", hidden, 1, V, False, activation="relu")
    w_ih, w_hh = np.zeros((hidden, V)), np.zeros((hidden, hidden))
    bias, head = np.zeros(hidden), np.zeros((V, hidden))
    w_ih[:V] = np.eye(V)
    for before in range(V):
        for last in range(V):
            unit = V + before * V + last
            w_ih[unit, last] = w_hh[unit, before] = 1.0
            bias[unit] = -1.0
            head[:, unit] = np.log(table[before, last])
    weights = {
        "embedding": np.eye(V),
        "head": head,
        "head_bias": np.zeros(V),
        "layers.0.kernel.weight_ih_l0": w_ih,
        "layers.0.kernel.weight_hh_l0": w_hh,
        "layers.0.kernel.bias_ih_l0": bias,
        "layers.0.kernel.bias_hh_l0": np.zeros(hidden),
    }
    assert {name: array.shape for name, array in weights.items()} == architecture.shapes(V)
    return numpy_model.build(architecture, weights)


def test_a_markov_source_of_order_2_loses_nothing_beyond_two_characters() -> None:
    text, table = source(2000, 2)
    found = reach.measure(markov(table), None, VOCABULARY, text)
    assert found.positions == 256
    assert found.distances == (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
    assert found.truncated[0] > 0.05
    assert found.shuffled[0] > 0.05
    close(found.truncated[1:], np.zeros(9))
    close(found.shuffled[1:], np.zeros(9))
    assert found.gradient is None


def test_the_bits_of_a_markov_source_are_its_entropy() -> None:
    text, table = source(40_000, 2)
    found = reach.measure(markov(table), None, VOCABULARY, text, positions=30_000, distances=(1,))
    pairs = np.zeros((V, V))
    for before, last in itertools.pairwise(text):
        pairs[VOCABULARY.characters.index(before), VOCABULARY.characters.index(last)] += 1
    entropy = -(pairs[..., None] / pairs.sum() * table * np.log2(table)).sum()
    assert found.bits == pytest.approx(entropy, abs=0.02)


def counter() -> NumpyModel:
    """Build the ReLU network that predicts data/digits.txt exactly: a unit counts the digits since the newline."""
    size, digits = 10, 9
    architecture = Architecture("rnn", size + 1, 1, size, False, activation="relu")
    weights = {name: np.zeros(shape) for name, shape in architecture.shapes(size).items()}
    weights["embedding"] = np.eye(size)
    w_ih, w_hh = weights["layers.0.kernel.weight_ih_l0"], weights["layers.0.kernel.weight_hh_l0"]
    w_ih[:size] = np.eye(size)  # which character was read last
    w_ih[size], w_ih[size, 0] = 1.0, -1000.0  # n' = relu(n + 1), or 0 at a newline
    w_hh[size, size] = 1.0
    for digit in range(digits):
        weights["head"][1 + (digit + 1) % digits, 1 + digit] = 20.0
    weights["head"][0, size], weights["head_bias"][0] = 100.0, -2650.0  # a newline after 27 digits
    return numpy_model.build(architecture, weights)


def test_counting_loses_until_27() -> None:
    text = DIGITS.read_text(encoding="utf-8")[:2800]
    vocabulary = Vocabulary("\n012345678", seen=10**9, novel=1, unseen=100)
    distances = (1, 8, 16, 26, 27, 28, 56)
    all_positions = reach.measure(counter(), None, vocabulary, text, positions=2800, distances=distances)
    first_digits = text[55:-1].count("\n")  # the only ones in doubt
    assert all_positions.bits == pytest.approx(math.log2(9) * first_digits / 2744, rel=1e-6)
    for found in (all_positions, reach.measure(counter(), None, vocabulary, text)):
        for distance, lost in zip(found.distances, found.truncated, strict=True):
            assert lost > 1 if distance < 27 else abs(lost) < 1e-6


def test_the_same_seed_chooses_the_same_positions_and_order() -> None:
    text, table = source(700, 2)
    one, again, other = (
        reach.measure(markov(table), None, VOCABULARY, text, seed=seed, positions=20).fields() for seed in (1, 1, 2)
    )
    assert one == again
    assert one != other


def test_a_short_text_is_measured_as_far_as_half_of_it() -> None:
    text, table = source(9, 2)
    found = reach.measure(markov(table), None, VOCABULARY, text)
    assert found.distances == (1, 2, 4)
    assert found.positions == 5


def test_progress_counts_the_work_that_was_announced() -> None:
    text, table = source(600, 2)
    read: list[int] = []
    reach.measure(markov(table), None, VOCABULARY, text, progress=read.append)
    assert sum(read) == reach.work(len(text), gradient=False)


@pytest.mark.slow
def test_a_network_trained_to_count_loses_until_27() -> None:
    from charrnn.config.schema import ModelConfig
    from charrnn.models.factory import make_model

    text = DIGITS.read_text(encoding="utf-8")
    vocabulary = Vocabulary("\n012345678", seen=10**9, novel=1, unseen=100)
    tokens = torch.from_numpy(vocabulary.encode(text).astype(np.int64))
    values = {"hidden_size": 48, "embedding_size": 10, "num_layers": 1, "dropout": 0.0, "tie_weights": False}
    network = make_model(ModelConfig.model_validate({"cell": "lstm", **values}), 10)
    network.initialise(torch.Generator().manual_seed(1))
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    generator = torch.Generator().manual_seed(1)
    for _ in range(1500):
        starts = torch.randint(0, len(tokens) - 129, (32,), generator=generator)
        windows = tokens[starts[:, None] + torch.arange(129)]
        logits, _ = network(windows[:, :-1], network.initial_state(32))
        loss = torch.nn.functional.cross_entropy(logits[:, 40:].flatten(0, 1), windows[:, 41:].flatten())
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    weights = {name: tensor.detach().numpy() for name, tensor in network.state_dict().items()}
    model = numpy_model.build(Architecture.of(network.config.model_dump()), weights)
    found = reach.measure(model, None, vocabulary, text[-8000:], positions=1000, distances=(8, 16, 24, 64))
    assert (found.truncated[:3] > 0.05).all()
    assert abs(found.truncated[3]) < 0.02
