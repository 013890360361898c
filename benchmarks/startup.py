"""Start-up time of whole processes, run in turns.

python benchmarks/startup.py [--rounds 9]

The model is an LSTM of 2 x 512 with random weights.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import click
import torch
from turns import in_turns

from charrnn.checkpoints import model_file
from charrnn.checkpoints.model_file import Header
from charrnn.config.schema import Config
from charrnn.data.corpus import CorpusCard
from charrnn.data.vocabulary import Vocabulary
from charrnn.models.char_rnn import CharRNN


def write_model(path: Path) -> None:
    vocabulary = Vocabulary.from_text("".join(chr(code) for code in range(32, 96)) * 2)
    sizes = {"hidden_size": 512, "num_layers": 2, "embedding_size": 64, "dropout": 0.0, "tie_weights": False}
    config = Config.model_validate({"model": sizes, "train": {"seed": 1}})
    model = CharRNN(config.model, len(vocabulary))
    model.initialise(torch.Generator().manual_seed(0))
    card = CorpusCard("none", "0" * 64, 1, 1, 1)
    model_file.write(path, Header(config, vocabulary, card), model.state_dict())


def process(*arguments: str) -> Callable[[], object]:
    return lambda: subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)


@click.command()
@click.option("--rounds", default=9)
def main(rounds: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        write_model(path)
        seconds = in_turns(
            {
                "python -c 'import torch'": process("-c", "import torch"),
                "charrnn sample -n 1": process("-m", "charrnn", "sample", "-m", str(path), "-n", "1"),
                "python -c 'import click'": process("-c", "import click"),
                "charrnn --help": process("-m", "charrnn", "--help"),
            },
            rounds,
        )
    print(f"whole processes, milliseconds, median (lowest to highest) of {rounds}")
    for name, spent in seconds.items():
        ordered = sorted(1e3 * each for each in spent)
        print(f"  {name:26} {ordered[len(ordered) // 2]:7.0f} ({ordered[0]:.0f} to {ordered[-1]:.0f})")
    for one, other in (
        ("charrnn sample -n 1", "python -c 'import torch'"),
        ("charrnn --help", "python -c 'import click'"),
    ):
        ratios = sorted(mine / theirs for mine, theirs in zip(seconds[one], seconds[other], strict=True))
        print(f"  {one}: {ratios[len(ratios) // 2]:.2f} of {other} ({ratios[0]:.2f} to {ratios[-1]:.2f})")


if __name__ == "__main__":
    main()
