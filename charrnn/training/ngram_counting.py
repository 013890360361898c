"""Making an n-gram model: the text is counted order by order, for as long as the validation split is predicted better.
`count` yields reports and knows no terminal; the run folder is `run_dir`'s."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from charrnn.checkpoints import model_file
from charrnn.checkpoints.model_file import EvaluationRecord, Header
from charrnn.checkpoints.run_dir import Run
from charrnn.config.schema import Config, resolved
from charrnn.data.corpus import Corpus, CorpusCard
from charrnn.errors import CharRNNError
from charrnn.evaluation import baselines
from charrnn.models import ngram
from charrnn.models.ngram import Ngram
from charrnn.scores import Score
from charrnn.training.evaluation_samples import write_sample
from charrnn.training.events import Finished

MAX_TRAINING_SCORED = 1 << 18  # characters of the training split that are scored for comparison


@dataclass(frozen=True)
class Counted:
    """A model of one order and its evaluation, whose `step` is the order; `progress` is the share done."""

    record: EvaluationRecord
    best: bool
    progress: float


@dataclass
class Counting:
    """What counting needs; its seconds count from `began` (of time.perf_counter)."""

    config: Config
    corpus: Corpus
    card: CorpusCard
    began: float
    progress: float = 0.0

    def evaluate(self, model: Ngram) -> EvaluationRecord:
        """Score the validation split, and the end of the training split."""
        vocabulary, corpus = self.corpus.vocabulary, self.corpus
        training = model.score(vocabulary, corpus.training.tokens[-MAX_TRAINING_SCORED:])
        score = model.score(vocabulary, corpus.validation.tokens)
        seconds = time.perf_counter() - self.began
        return EvaluationRecord(
            model.order, 1.0, seconds, training.bits_per_character, score.nats, score.characters, score.correct
        )

    def save(self, run: Run, model: Ngram, history: tuple[EvaluationRecord, ...]) -> None:
        """Write the model, its configuration and a sample."""
        config, vocabulary = self.config.with_values(model={"order": model.order}), self.corpus.vocabulary
        run.write_config(config)
        text = write_sample(model, vocabulary, resolved(config.train.seed), 0, config.data.documents)
        run.append_sample(f"order {model.order}, {history[-1].bits_per_character:.4f} bits/char", text)
        header = Header(config, vocabulary, self.card, history, baselines=baselines.compute(self.corpus))
        model_file.write_tables(run.best, header, model.tables())


def count(counting: Counting, run: Run) -> Iterator[Counted | Finished]:
    """Count a text, choose the order if it is `auto`, and save the model; yield a report for each order scored.

    This cannot be resumed: when it is interrupted, the run folder is discarded. Raises CharRNNError where the text is
    too short or too long for the order that is set, or the disk is full.
    """
    try:
        yield from _count(counting, run)
    except BaseException:
        run.discard()
        raise


def _count(counting: Counting, run: Run) -> Iterator[Counted | Finished]:
    vocabulary, wanted = counting.corpus.vocabulary, counting.config.model.order
    tokens = counting.corpus.training.tokens[-ngram.MAX_CHARACTERS :]
    history: list[EvaluationRecord] = []
    best: Ngram | None = None
    reached = 0
    ends = vocabulary.boundary_tokens
    documents = None if vocabulary.boundary == "\n" else ends
    for model in ngram.grow(tokens, int(ends[-1]), len(vocabulary), documents):
        reached = model.order
        if wanted not in ("auto", reached):
            continue
        record = counting.evaluate(model)
        better = not history or record.nats < history[-1].nats
        run.append_metrics(_line(record))
        yield Counted(record, better, 1.0 if reached == wanted else reached / ngram.MAX_ORDER)
        if not better:
            break
        history.append(record)
        best = model
        if reached == wanted:
            break
    if best is None:
        raise CharRNNError(
            f"{counting.card.name} can be counted up to order {reached}, not {wanted}: it is too short for more, or has"
            f" too many different n-grams. Set model.order={reached} or less, or leave it out."
        )
    counting.save(run, best, tuple(history))
    yield Finished("done", tuple(history), best.order)


def _line(record: EvaluationRecord) -> dict[str, object]:
    score = Score(record.nats, record.characters, record.correct)
    return {
        "order": record.step,
        "seconds": record.seconds,
        "training_bits_per_character": record.training_bits_per_character,
        "validation": score.fields,
    }
