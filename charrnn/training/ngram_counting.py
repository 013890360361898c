"""Making an n-gram model: one count of the text, order by order, kept as far as the validation part is foretold better.
`count` yields reports and knows no terminal; the run folder is `checkpoint`'s."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from charrnn import atomic_files
from charrnn.checkpoints import model_file
from charrnn.checkpoints.model_file import EvaluationRecord, Header
from charrnn.checkpoints.run_dir import Run
from charrnn.config.schema import Config
from charrnn.data.corpus import Corpus, CorpusCard
from charrnn.errors import CharRNNError
from charrnn.evaluation import baselines
from charrnn.generation import sampling
from charrnn.generation.filters import Filters
from charrnn.models import ngram
from charrnn.models.ngram import Ngram
from charrnn.scores import Score
from charrnn.training.events import Finished
from charrnn.training.trainer import SAMPLE_LENGTH

_TRAINING = 1 << 18  # characters of the training part that are scored to compare, at most


@dataclass(frozen=True)
class Counted:
    """Report a model of one order and its evaluation, whose `step` is the order; `progress` is the share done."""

    evaluated: EvaluationRecord
    best: bool
    progress: float


@dataclass
class Counting:
    """Hold what a counting needs; it counts its seconds from `began` (of time.perf_counter)."""

    config: Config
    corpus: Corpus
    card: CorpusCard
    began: float
    progress: float = 0.0

    def evaluate(self, model: Ngram) -> EvaluationRecord:
        """Score the validation part, and of the training part the end."""
        vocabulary, corpus = self.corpus.vocabulary, self.corpus
        training = model.score(vocabulary, corpus.training.tokens[-_TRAINING:])
        score = model.score(vocabulary, corpus.validation.tokens)
        seconds = time.perf_counter() - self.began
        return EvaluationRecord(
            model.order, 1.0, seconds, training.bits_per_character, score.nats, score.characters, score.correct
        )

    def save(self, run: Run, model: Ngram, history: tuple[EvaluationRecord, ...]) -> None:
        """Write the model, its configuration and a text that it wrote."""
        config = self.config.with_values(model={"order": model.order})
        run.write_config(config)
        run.append_sample(f"order {model.order}, {history[-1].bits_per_character:.4f} bits/char", self._write(model))
        baseline_scores = baselines.compute(self.corpus)
        header = Header(config, self.corpus.vocabulary, self.card, history, baselines=baseline_scores)
        atomic_files.write_atomically(run.best, model_file.tables_to_bytes(header, model.tables()))

    def _write(self, model: Ngram) -> str:
        seed = self.config.train.seed
        assert seed is not None
        filters = Filters(sampling.TEMPERATURE, min_p=sampling.MIN_P)
        sampler = sampling.Sampler(model, self.corpus.vocabulary, [""], SAMPLE_LENGTH, filters, seed=seed, indices=[0])
        for _ in sampler:
            pass
        return sampler.samples[0].text


def count(counting: Counting, run: Run) -> Iterator[Counted | Finished]:
    """Count a text, choose the order if it is `auto`, and save the model; yields a report an order that was scored.

    There is nothing to go on with: the model is finished, or where this is interrupted there is none. Raises
    CharRNNError where the text is too short or too long for the order asked for, or the disk is full.
    """
    try:
        yield from _count(counting, run)
    except BaseException:
        run.discard()
        raise


def _count(counting: Counting, run: Run) -> Iterator[Counted | Finished]:
    vocabulary, wanted = counting.corpus.vocabulary, counting.config.model.order
    tokens = counting.corpus.training.tokens[-ngram.MOST :]
    history: list[EvaluationRecord] = []
    best: Ngram | None = None
    reached = 0
    for model in ngram.grow(tokens, vocabulary.newline, len(vocabulary)):
        reached = model.order
        if wanted not in ("auto", reached):
            continue
        evaluated = counting.evaluate(model)
        better = not history or evaluated.nats < history[-1].nats
        run.append_metrics(_line(evaluated))
        yield Counted(evaluated, better, 1.0 if reached == wanted else reached / ngram.HIGHEST)
        if not better:
            break
        history.append(evaluated)
        best = model
        if reached == wanted:
            break
    if best is None:
        raise CharRNNError(
            f"{counting.card.name} can be counted up to order {reached}, not {wanted}: it is too short for more, or its"
            f" grams would be too many. Set model.order={reached} or less, or leave it out."
        )
    counting.save(run, best, tuple(history))
    yield Finished("done", tuple(history), best.order)


def _line(evaluated: EvaluationRecord) -> dict[str, object]:
    score = Score(evaluated.nats, evaluated.characters, evaluated.correct)
    return {
        "order": evaluated.step,
        "seconds": evaluated.seconds,
        "training_bits_per_character": evaluated.training_bits_per_character,
        "validation": score.fields,
    }
