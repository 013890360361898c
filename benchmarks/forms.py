"""How often a model's poems have a regular form, compared with held-out poems.

    python benchmarks/forms.py MODEL [--split validation] [--count 1000] [--temperature 1] [--min-p 0.02] [--seed 0]

A poem is a title, lines, and an empty line. It is regular if all its verses have five characters, or all have seven;
a verse ends at a punctuation mark or at the end of a line. Samples start after an empty line and stop before the next,
with the default settings of `charrnn sample`; one that does not end within 1,000 characters is not regular.
Prints the share of regular poems of the model and of the held-out text, and the forms of the others.
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
BATCH = 64
_MARKS = "，。？！；：、"


def form(poem: str) -> str:
    """Return a poem's form: five, seven, or why it has none."""
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


def report(name: str, poems: Iterable[str | None]) -> None:
    """Print the share of regular poems; None is one that did not end."""
    forms = Counter("endless" if poem is None else form(poem) for poem in poems)
    count = forms.total()
    share = (forms["five"] + forms["seven"]) / count
    error = (share * (1 - share) / count) ** 0.5
    rest = ", ".join(f"{kind} {number / count:.1%}" for kind, number in forms.most_common())
    print(f"{name:10}  regular {share:6.1%} +- {error:.1%} of {count:,}: {rest}", flush=True)


@click.command()
@click.argument("model")
@click.option("--split", default="validation", type=click.Choice(["validation", "test"]))
@click.option("--count", default=1000)
@click.option("--temperature", default=TEMPERATURE)
@click.option("--min-p", default=MIN_P)
@click.option("--seed", default=0)
def main(model: str, split: str, count: int, temperature: float, min_p: float, seed: int) -> None:
    path = run_dir.find_model(model)
    header = model_file.read_header(path)
    texts, _ = corpus.read(header.config.data, int(header.config.train.seed or 0), header.corpus.name)
    report("held out", [poem for poem in texts.split(split).text.split("\n\n") if poem.strip()])
    language_model, vocabulary = inference.load(path)
    poems: list[str | None] = []
    for first in range(0, count, BATCH):
        indices = range(first, min(first + BATCH, count))
        sampler = Sampler(
            language_model,
            vocabulary,
            ["\n"] * len(indices),
            LENGTH,
            Filters(temperature=temperature, min_p=min_p),
            seed=seed,
            indices=indices,
            until="\n\n",
        )
        for _ in sampler:
            pass
        poems += [sample.text if len(sample.text) < LENGTH else None for sample in sampler.samples]
    report("model", poems)
    print("\nthe first three:\n")
    print("\n\n".join(poem.strip("\n") for poem in poems[:3] if poem is not None))


if __name__ == "__main__":
    main()
