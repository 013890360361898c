"""How well models fill gaps in text they have never seen: random gaps of several widths, the same for every model.

    python benchmarks/gaps.py BIDIRECTIONAL CAUSAL [--part validation] [--count 1000] [--widths 1,2,4,8]
        [--width 32] [--doubt 1]

Prints the share of gaps restored exactly and of characters right: of the bidirectional model, of the causal model by
the same search, and of the causal model greedily, which does not look at what comes after; with the paired difference
between the first two and its standard error. The text is the held-out part of the models' own corpus.
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

AROUND = 200  # characters shown on each side of a gap


def gapped(text: str, place: int, width: int) -> Gapped:
    first = place - AROUND
    return Gapped(text[first : place + width + AROUND], ((AROUND, AROUND + width),))


def greedily(model: LanguageModel, vocabulary: Vocabulary, gap: Gapped) -> str:
    start, end = gap.gaps[0]
    sampler = Sampler(model, vocabulary, [gap.text[:start]], end - start, Filters(greedy=True), seed=0, indices=[0])
    return "".join(shown for (shown,) in sampler)


@click.command()
@click.argument("models", nargs=2)
@click.option("--part", default="validation", type=click.Choice(["validation", "test"]))
@click.option("--count", default=1000)
@click.option("--widths", default="1,2,4,8")
@click.option("--seed", default=0)
@click.option("--width", "beam_width", default=infill.WIDTH)
@click.option("--doubt", default=infill.IMPLAUSIBLE, help="Nats; inf leaves all to the forward half.")
def main(models: tuple[str, str], part: str, count: int, widths: str, seed: int, beam_width: int, doubt: float) -> None:
    infill.IMPLAUSIBLE = doubt
    paths = [run_dir.find_model(name) for name in models]
    opened = [(model_file.read_header(path), inference.load(path)[0]) for path in paths]
    header = opened[0][0]
    whole, digest = corpus.read(header.config.data, int(header.config.train.seed or 0), header.corpus.name)
    assert all(other.corpus.sha256 == digest for other, _ in opened), "the models learnt other texts"
    text = whole.part(part).text
    print(
        f"{part} part of {Path(header.corpus.name).name}, {len(text):,} characters; {count} gaps a width, seed {seed}"
    )
    for name, (head, _) in zip(models, opened, strict=True):
        kind = head.config.model
        print(f"  {name}: {kind.num_layers} x {kind.hidden_size}, {head.parameters:,} parameters")
    print("width  model                 exact   characters  seconds/gap")
    for width in (int(each) for each in widths.split(",")):
        places = np.random.default_rng([seed, width]).integers(AROUND, len(text) - AROUND - width, count)
        rows = []
        for label, (head, model) in zip(("bidirectional", "causal, beam+suffix"), opened, strict=True):
            began = time.perf_counter()
            found = [
                infill.fill(model, head.vocabulary, gapped(text, int(place), width), width=beam_width)[0].gaps[0]
                for place in places
            ]
            rows.append((label, found, (time.perf_counter() - began) / count))
        began = time.perf_counter()
        head, model = opened[1]
        found = [greedily(model, head.vocabulary, gapped(text, int(place), width)) for place in places]
        rows.append(("causal, greedy", found, (time.perf_counter() - began) / count))
        exact, right = {}, {}
        for label, found, seconds in rows:
            truth = [text[place : place + width] for place in places]
            exact[label] = np.array([one == other for one, other in zip(found, truth, strict=True)], dtype=float)
            pairs = zip(found, truth, strict=True)
            right[label] = np.array([sum(a == b for a, b in zip(*pair, strict=True)) / width for pair in pairs])
            print(f"{width:5}  {label:20}  {exact[label].mean():6.1%}  {right[label].mean():9.1%}  {seconds:9.3f}")
        for what, shares in (("exact", exact), ("characters", right)):
            gained = shares["bidirectional"] - shares["causal, beam+suffix"]
            error = gained.std(ddof=1) / np.sqrt(count)
            print(f"       lead, {what}: {gained.mean():+.1%}, standard error {error:.1%}")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
