"""How samples compare with real text, by temperature and min-p.

    python benchmarks/samples.py MODEL [--characters 20000] [--temperatures 0.5,...] [--min-p 0,...] [--order 6]
        [--copied 20] [--grams 4,8]

Samples of 500 characters without a prime, and as many pieces of the second half of the validation split, are measured
in the same way:

    judge     bits/char under an n-gram model (Witten and Bell 1991, interpolated) of the first half of the validation
              split, which the network was not trained on
    train     the same with an n-gram model of the training split; copies lower it too
    own       bits/char under the network itself, at temperature 1; pieces of the real text are scored independently
    distinct  share of n-grams that are distinct, for each length of --grams
    new words share of words, runs of letters, that are not in the training split: a measure of misspelling for texts
              with spaces
    copied    share of characters within runs of at least --copied characters that are in the training split
    repeated  share of characters within runs of at least --copied characters that the same sample repeats
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from collections.abc import Set as AbstractSet

import click
import numpy as np

from charrnn.checkpoints import inference, model_file, run_dir
from charrnn.data import corpus
from charrnn.evaluation import short_texts
from charrnn.generation.filters import Filters
from charrnn.generation.sampling import Sampler

LENGTH = 500
LETTERS = re.compile(r"[^\W\d_]+")


def n_gram_bits(training_text: str, texts: Sequence[str], order: int) -> list[float]:
    """Return the bits/char of each text under an interpolated n-gram model of the training text.

    P_k(c | h) = (C(h c) + T(h) P_k-1(c | h')) / (C(h) + T(h)), where h' is h without its first character, C counts, and
    T(h) is the number of different characters that follow h; P_0 is uniform over all characters of all texts.
    """
    joined = training_text + "".join("\n" + text for text in texts)
    codes = np.frombuffer(joined.encode("utf-32-le"), dtype="<u4")
    size, trained = len(np.unique(codes)), len(training_text)
    probability = np.full(len(codes), 1 / size)
    context = np.zeros(len(codes), dtype=np.int64)  # number of the k - 1 characters before each position
    for _ in range(order):
        name, gram = np.unique(context * (int(codes.max()) + 1) + codes, return_inverse=True)
        counts = np.bincount(gram[:trained], minlength=len(name))
        of_context = np.bincount(context[:trained], minlength=int(context.max()) + 1)
        different = np.bincount(name[counts > 0] // (int(codes.max()) + 1), minlength=len(of_context))
        total = of_context[context] + different[context]
        seen = total > 0
        probability[seen] = (counts[gram[seen]] + different[context[seen]] * probability[seen]) / total[seen]
        # the k characters before the next position are the gram that ends here
        context = np.concatenate(([0], gram[:-1] + 1))
    bits, scores, first = -np.log2(probability), [], trained
    for text in texts:
        scores.append(float(bits[first + 1 : first + 1 + len(text)].mean()))
        first += 1 + len(text)
    return scores


def distinct(pieces: Sequence[str], size: int) -> float:
    """Return the share of n-grams that are distinct."""
    found = [gram for piece in pieces for gram in grams(piece, size)]
    return len(set(found)) / len(found)


def within(piece: str, size: int, runs: AbstractSet[str]) -> float:
    """Return the share of characters within the given runs of `size` characters."""
    marked = np.zeros(len(piece), dtype=bool)
    for at, gram in enumerate(grams(piece, size)):
        if gram in runs:
            marked[at : at + size] = True
    return float(marked.mean())


def repeated(piece: str, size: int) -> set[str]:
    """Return the runs of `size` characters that occur more than once."""
    return {gram for gram, count in Counter(grams(piece, size)).items() if count > 1}


def grams(text: str, size: int) -> list[str]:
    return [text[at : at + size] for at in range(len(text) - size + 1)]


def numbers(_: object, __: object, value: str) -> list[float]:
    return [float(each) for each in value.split(",")]


@click.command()
@click.argument("model")
@click.option("--characters", default=20_000)
@click.option("--temperatures", default="0.5,0.6,0.7,0.8,0.9,1.0", callback=numbers)
@click.option("--min-p", "min_ps", default="0,0.02,0.05,0.1", callback=numbers)
@click.option("--order", default=6)
@click.option("--copied", default=20)
@click.option("--grams", "sizes", default="4,8", callback=numbers)
@click.option("--seed", default=1)
def main(
    model: str,
    characters: int,
    temperatures: list[float],
    min_ps: list[float],
    order: int,
    copied: int,
    sizes: list[float],
    seed: int,
) -> None:
    path = run_dir.find_model(model)
    header = model_file.read_header(path)
    language_model, vocabulary = inference.load(path)
    splits, digest = corpus.read(header.config.data, int(header.config.train.seed or 0), header.corpus.name)
    assert digest == header.corpus.sha256, "the text has changed"
    training_text, held_out = splits.training.text, splits.validation.text
    half, number = len(held_out) // 2, characters // LENGTH
    assert len(held_out) - half >= number * LENGTH, "the validation split is too short; name fewer --characters"
    starts = np.linspace(half, len(held_out) - LENGTH, number).astype(int)
    real = [held_out[start : start + LENGTH] for start in starts]
    rows = {"real text": real}
    scores = short_texts.score_batch(language_model, vocabulary, [vocabulary.encode(piece) for piece in real])
    own = {"real text": sum(score.bits for score in scores) / (number * LENGTH)}
    for min_p in min_ps:
        for temperature in temperatures:
            filters = Filters(temperature=temperature, min_p=min_p or None)
            sampler = Sampler(
                language_model, vocabulary, [""] * number, LENGTH, filters, seed=seed, indices=range(number)
            )
            for _ in sampler:
                pass
            name = f"t {temperature:g}, min-p {min_p:g}"
            rows[name] = [sample.text for sample in sampler.samples]
            own[name] = sum(sample.nats for sample in sampler.samples) / np.log(2) / (number * LENGTH)
    texts = ["\n".join(pieces) for pieces in rows.values()]
    judged, trained = n_gram_bits(held_out[:half], texts, order), n_gram_bits(training_text, texts, order)
    words, runs = set(LETTERS.findall(training_text)), set(grams(training_text, copied))
    heads = "".join(f"  distinct-{size:.0f}" for size in sizes)
    print(f"{path}; {number} samples of {LENGTH} characters each, seed {seed}; order {order}; runs of {copied}")
    print(f"{'':18}  judge   train    own{heads}  new words  copied  repeated")
    for (name, pieces), judge, train in zip(rows.items(), judged, trained, strict=True):
        found = [word for piece in pieces for word in LETTERS.findall(piece[piece.find(" ") + 1 : piece.rfind(" ")])]
        new = np.mean([word not in words for word in found]) if found else 0.0
        copy = np.mean([within(piece, copied, runs) for piece in pieces])
        again = np.mean([within(piece, copied, repeated(piece, copied)) for piece in pieces])
        shares = "".join(f"  {distinct(pieces, int(size)):10.3f}" for size in sizes)
        print(
            f"{name:18}  {judge:5.3f}  {train:6.3f}  {own[name]:5.3f}{shares}  {new:9.1%}  {copy:6.1%}  {again:8.1%}",
            flush=True,
        )


if __name__ == "__main__":
    main()
