"""How often a model's poems keep a regular form, beside poems that people wrote and the model never saw.

    python benchmarks/forms.py MODEL [--part validation] [--count 1000] [--temperature 1] [--min-p 0.02] [--seed 0]

A poem is a title, lines, and an empty line. It is regular if all its verses have five characters, or all have seven;
a verse ends at a mark of punctuation or at the end of its line. Poems are drawn after an empty line, each to the next
one, with the defaults of `charrnn sample`; one that does not end within 1,000 characters is not regular.
Held-out poems are judged by the same rule. Prints both shares, and what spoils the others.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

import click

from charrnn.checkpoints import inference, model_file, run_dir
from charrnn.data import corpus
from charrnn.generation.filters import Filters
from charrnn.generation.sampling import MIN_P, TEMPERATURE, Sampler

LENGTH = 1_000
LANES = 64
_MARKS = "，。？！；：、"


def form(poem: str) -> str:
    """Name a poem's form: five, seven, or what it is instead."""
    title, _, body = poem.strip("\n").partition("\n")
    if not title or not body:
        return "no lines"
    verses = [verse for line in body.split("\n") for verse in re.split(f"[{_MARKS}]", line) if verse]
    sizes = {len(verse) for verse in verses}
    if len(verses) < 2:
        return "a single verse"
    if sizes == {5}:
        return "five"
    if sizes == {7}:
        return "seven"
    return "mixed"


def shown(name: str, poems: Iterable[str | None]) -> None:
    """Print the share of regular poems; None stands for one that did not end."""
    forms = Counter("endless" if poem is None else form(poem) for poem in poems)
    count = forms.total()
    share = (forms["five"] + forms["seven"]) / count
    error = (share * (1 - share) / count) ** 0.5
    rest = ", ".join(f"{kind} {number / count:.1%}" for kind, number in forms.most_common())
    print(f"{name:10}  regular {share:6.1%} +- {error:.1%} of {count:,}: {rest}", flush=True)


@click.command()
@click.argument("model")
@click.option("--part", default="validation", type=click.Choice(["validation", "test"]))
@click.option("--count", default=1000)
@click.option("--temperature", default=TEMPERATURE)
@click.option("--min-p", default=MIN_P)
@click.option("--seed", default=0)
def main(model: str, part: str, count: int, temperature: float, min_p: float, seed: int) -> None:
    path = run_dir.find_model(model)
    header = model_file.read_header(path)
    whole, _ = corpus.read(header.config.data, int(header.config.train.seed or 0), header.corpus.name)
    shown("held out", [poem for poem in whole.part(part).text.split("\n\n") if poem.strip()])
    reader, vocabulary = inference.load(path)
    poems: list[str | None] = []
    for first in range(0, count, LANES):
        indices = range(first, min(first + LANES, count))
        sampler = Sampler(
            reader,
            vocabulary,
            ["\n"] * len(indices),
            LENGTH,
            Filters(temperature, min_p=min_p),
            seed=seed,
            indices=indices,
            until="\n\n",
        )
        for _ in sampler:
            pass
        poems += [sample.text if len(sample.text) < LENGTH else None for sample in sampler.samples]
    shown("model", poems)
    print("\nthe first three:\n")
    print("\n\n".join(poem.strip("\n") for poem in poems[:3] if poem is not None))


if __name__ == "__main__":
    main()
