"""A text's loss by three protocols: the state carried over all of it, and windows that each start without a context.

    python benchmarks/contexts.py MODEL [TEXT] [--windows 256,64] [--batch 64]

charrnn carries the state, as `charrnn evaluate --exact` does. nanoGPT's published losses are means over random windows
of 256 (small CPU model: 64) characters, of which the first is given and each next one is predicted from those before it
in the window alone. Here the windows lie end to end, so that every character but the first of each is scored once.
Without TEXT the held-out split of the model's corpus is scored. Nats per character.
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
import torch

from charrnn.checkpoints import model_file, run_dir, training_corpus
from charrnn.data import text_files
from charrnn.evaluation import scoring
from charrnn.models.losses import target_nats


@click.command()
@click.argument("model")
@click.argument("text", required=False)
@click.option("--windows", default="256,64")
@click.option("--batch", default=64)
def main(model: str, text: str | None, windows: str, batch: int) -> None:
    path = run_dir.find_model(model)
    header, network = model_file.read_model(path)
    if text is None:
        name, split = training_corpus.held_out(header, path)
        tokens = split.tokens
    else:
        name, tokens = text, header.vocabulary.encode(text_files.read([text]))
    print(f"{Path(model).name}, {name}: {len(tokens):,} characters, nats per character")
    score = scoring.evaluate(network, header.vocabulary, tokens, exact=True).score
    print(f"state carried          {score.nats / score.characters:.4f}")
    for length in (int(size) for size in windows.split(",")):
        starts = np.arange(0, len(tokens) - length, length)
        total = 0.0
        for first in range(0, len(starts), batch):
            places = starts[first : first + batch, None] + np.arange(length + 1)[None]
            window = torch.from_numpy(tokens[places].astype(np.int64))
            with torch.inference_mode():
                logits, _ = network(window[:, :-1], network.initial_state(len(window)))
                vocabulary = header.vocabulary
                nats = target_nats(logits, window[:, 1:], vocabulary.known_nats, vocabulary.escape_nats)
            total += float(nats.double().sum())
        print(f"windows of {length:<11} {total / (len(starts) * length):.4f}")


if __name__ == "__main__":
    main()
