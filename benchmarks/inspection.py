"""How long the analyses of `charrnn inspect` take, of a network with random weights and a text of random words.

python benchmarks/inspection.py [--cell lstm] [--hidden 512] [--layers 2] [--characters 2000]

Targets on two cores, for an LSTM of 2 x 512 and 2,000 characters: states, gates and units in 10 s; reach and saliency
in 60 s.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import click
import numpy as np
import torch

from charrnn.config.schema import ModelConfig
from charrnn.data.vocabulary import Vocabulary
from charrnn.inspection import gates, reach, saliency, units
from charrnn.inspection.states import read_states
from charrnn.models import numpy_model
from charrnn.models.architecture import Architecture
from charrnn.models.char_rnn import CharRNN
from charrnn.models.factory import make_model


@click.command()
@click.option("--cell", default="lstm")
@click.option("--hidden", default=512)
@click.option("--layers", default=2)
@click.option("--characters", default=2000)
def main(cell: str, hidden: int, layers: int, characters: int) -> None:
    text = words(characters)
    vocabulary = Vocabulary.from_text(text)
    sizes = {"cell": cell, "hidden_size": hidden, "num_layers": layers, "embedding_size": 64, "dropout": 0.0}
    network = make_model(ModelConfig.model_validate({**sizes, "tie_weights": False}), len(vocabulary))
    network.initialise(torch.Generator().manual_seed(1))
    assert isinstance(network, CharRNN)
    weights = {name: tensor.detach().numpy() for name, tensor in network.state_dict().items()}
    model = numpy_model.build(Architecture.of(network.config.model_dump()), weights)
    tokens = vocabulary.encode(text).astype(np.int64)
    print(f"{cell} {layers} x {hidden}, {characters:,} characters, {torch.get_num_threads()} threads")
    states = timed("states and gates", lambda: read_states(model, tokens, vocabulary.boundary_tokens, gates=True))
    timed("shares of gates", lambda: gates.shares(states))
    timed("units", lambda: units.find(states, text))
    timed("reach", lambda: reach.measure(model, network, vocabulary, text, states=states))
    found = timed("saliency", lambda: saliency.measure(model, network, vocabulary, text, states=states))
    print(f"saliency of {len(found.positions):,} characters, {found.window} before each")


def words(characters: int) -> str:
    """Draw a text of random words and lines."""
    generator = np.random.default_rng(1)
    letters = list("abcdefghijklmnopqrstuvwxyz    \n(),.")
    return "".join(generator.choice(letters, characters))


def timed(name: str, function: Callable[[], Any]) -> Any:
    """Run a function once, and print how long it took."""
    began = time.perf_counter()
    found = function()
    print(f"{name:18} {time.perf_counter() - began:6.1f} s")
    return found


if __name__ == "__main__":
    main()
