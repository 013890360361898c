"""How well models fill random gaps of several widths in held-out text, the same gaps for every model.

    python benchmarks/gaps.py BIDIRECTIONAL CAUSAL [--split validation] [--count 1000] [--widths 1,2,4,8]
        [--width 32] [--implausible 1]

Prints the share of gaps filled exactly and of characters right, for the bidirectional model, for the causal model with
the same search, and for the causal model with greedy sampling, which ignores what follows the gap; and the paired
difference between the first two with its standard error. The text is the held-out split of the models' own corpus.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click
import numpy as np

from charrnn.checkpoints import inference, model_file, run_dir
from charrnn.data import corpus
from charrnn.data.vocabulary import Vocabulary
from charrnn.generation import infill
from charrnn.generation.filters import Filters
from charrnn.generation.infill import Gapped
from charrnn.generation.sampling import Sampler
from charrnn.models.interface import LanguageModel

CONTEXT = 200  # characters on each side of a gap


def gapped(text: str, start: int, width: int) -> Gapped:
    return Gapped(text[start - CONTEXT : start + width + CONTEXT], ((CONTEXT, CONTEXT + width),))


def fill_greedily(model: LanguageModel, vocabulary: Vocabulary, gap: Gapped) -> str:
    start, end = gap.gaps[0]
    sampler = Sampler(model, vocabulary, [gap.text[:start]], end - start, Filters(greedy=True), seed=0, indices=[0])
    return "".join(text for (text,) in sampler)


@click.command()
@click.argument("models", nargs=2)
@click.option("--split", default="validation", type=click.Choice(["validation", "test"]))
@click.option("--count", default=1000)
@click.option("--widths", default="1,2,4,8")
@click.option("--seed", default=0)
@click.option("--width", "beam_width", default=infill.WIDTH)
@click.option("--implausible", default=infill.IMPLAUSIBLE, help="Nats; with inf the forward half alone ranks fillings.")
def main(
    models: tuple[str, str], split: str, count: int, widths: str, seed: int, beam_width: int, implausible: float
) -> None:
    infill.IMPLAUSIBLE = implausible
    paths = [run_dir.find_model(name) for name in models]
    opened = [(model_file.read_header(path), inference.load(path)[0]) for path in paths]
    header = opened[0][0]
    texts, digest = corpus.read(header.config.data, int(header.config.train.seed or 0), header.corpus.name)
    assert all(other.corpus.sha256 == digest for other, _ in opened), "the models were trained on different texts"
    text = texts.split(split).text
    print(
        f"{split} split of {Path(header.corpus.name).name}, {len(text):,} characters; {count} gaps a width, seed {seed}"
    )
    for name, (head, _) in zip(models, opened, strict=True):
        kind = head.config.model
        print(f"  {name}: {kind.num_layers} x {kind.hidden_size}, {head.parameters:,} parameters")
    print("width  model                 exact   characters  seconds/gap")
    for width in (int(each) for each in widths.split(",")):
        starts = np.random.default_rng([seed, width]).integers(CONTEXT, len(text) - CONTEXT - width, count).tolist()
        rows = []
        for label, (head, model) in zip(("bidirectional", "causal, beam+suffix"), opened, strict=True):
            began = time.perf_counter()
            found = [
                infill.fill(model, head.vocabulary, gapped(text, start, width), width=beam_width)[0].gaps[0]
                for start in starts
            ]
            rows.append((label, found, (time.perf_counter() - began) / count))
        began = time.perf_counter()
        head, model = opened[1]
        found = [fill_greedily(model, head.vocabulary, gapped(text, start, width)) for start in starts]
        rows.append(("causal, greedy", found, (time.perf_counter() - began) / count))
        exact, right = {}, {}
        for label, found, seconds in rows:
            truth = [text[start : start + width] for start in starts]
            exact[label] = np.array([one == other for one, other in zip(found, truth, strict=True)], dtype=float)
            pairs = zip(found, truth, strict=True)
            right[label] = np.array([sum(a == b for a, b in zip(*pair, strict=True)) / width for pair in pairs])
            print(f"{width:5}  {label:20}  {exact[label].mean():6.1%}  {right[label].mean():9.1%}  {seconds:9.3f}")
        for what, shares in (("exact", exact), ("characters", right)):
            lead = shares["bidirectional"] - shares["causal, beam+suffix"]
            error = lead.std(ddof=1) / np.sqrt(count)
            print(f"       lead, {what}: {lead.mean():+.1%}, standard error {error:.1%}")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
