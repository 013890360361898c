"""Claims about a network that is mixed with an n-gram model of its text while it is trained."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from charrnn.checkpoints import inference, model_file
from charrnn.checkpoints.model_file import Header
from charrnn.checkpoints.run_dir import Run
from charrnn.config import loading
from charrnn.evaluation import mixture_weights, short_texts
from charrnn.models.ngram_mixture import NgramMixture, Weights
from charrnn.scores import NATS_PER_BIT
from charrnn.training import loop, mixing, new_run, resume, training_step
from charrnn.training.events import Evaluated
from charrnn.training.job import TrainingJob
from tests.conftest import TINY

CPU = torch.device("cpu")
WORDS = ("the", "cat", "and", "dog", "sat", "ran", "on", "under", "a", "mat", "tree", "when", "it", "rained")


def words(length: int, seed: int = 0) -> str:
    """Return a text of short words, drawn at random: n-grams know it well, and a network of five units does not."""
    rng = np.random.default_rng(seed)
    ends = np.where(rng.random(length) < 0.1, "\n", " ")
    return "".join(word + end for word, end in zip(rng.choice(WORDS, length), ends, strict=True))


def noise(length: int) -> str:
    """Return a text that nothing predicts: mixing gains nothing."""
    return "".join(np.random.default_rng(1).choice(list("abcdefgh\n"), length))


def started(
    text: str, *settings: str, folder: str = "run", steps: int = 20, base: Path | None = None
) -> TrainingJob[training_step.Training]:
    Path("own.txt").write_text(text)
    options = loading.load(None, [*TINY, "model.mixture=auto", f"train.steps={steps}", *settings])
    return new_run.start(options.with_values(data={"texts": ["own.txt"]}), Path(folder), CPU, init_from=base)


def trained(job: TrainingJob[training_step.Training], until: int | None = None) -> list[Evaluated]:
    def stop() -> bool:
        return until is not None and job.training.position.step >= until

    found = [report for report in loop.train(job.training, job.run, stop) if isinstance(report, Evaluated)]
    job.run.release()
    return found


def opened(path: Path = Path("run/best.safetensors")) -> tuple[Header, NgramMixture]:
    model, _ = inference.load(path)
    assert isinstance(model, NgramMixture)
    return model_file.read_header(path), model


def test_a_mixture_is_made_where_it_pays(here: Path) -> None:
    job = started(words(3000))
    reports = trained(job)
    header, model = opened()
    latest = header.latest
    assert latest is not None
    assert latest.mixture_nats is not None
    assert latest.mixture_nats < (1 - mixing.MIN_NETWORK_GAIN) * latest.nats
    # each half has weights of the other in training, and all have the same here
    tokens = job.training.validation
    nats = short_texts.character_nats(model, header.vocabulary, tokens).sum()
    assert nats == pytest.approx(latest.mixture_nats, rel=0.01)
    alone, _ = inference.load(Path("run/best.safetensors"), network_only=True)
    assert short_texts.character_nats(alone, header.vocabulary, tokens).sum() == pytest.approx(latest.nats, rel=1e-3)
    lines = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    mixtures = [line["validation"]["mixture_bits_per_character"] for line in lines if "validation" in line]
    assert mixtures == [report.record.mixture_bits for report in reports]
    assert all(report.counted for report in reports)


def test_none_is_made_where_it_does_not_pay_or_is_not_wanted(here: Path) -> None:
    trained(started(noise(4000), folder="noise"))
    trained(started(words(3000), "model.mixture=none", folder="unwanted"))
    for folder in ("noise", "unwanted"):
        header = model_file.read_header(Path(folder, "best.safetensors"))
        assert header.mixture is None
        assert all(record.mixture_nats is None for record in header.history)
        assert not any(name.startswith("ngram/") for name in header.shapes)


def test_one_is_made_of_anything_if_asked_for(here: Path) -> None:
    trained(started(noise(4000), "model.mixture=ngram"))
    header, model = opened()
    assert header.mixture is not None
    assert model.ngram.order == header.mixture.order


def test_a_mixture_does_not_predict_noise(here: Path) -> None:
    """The text is of nine characters, all as likely: fewer bits would be a leak."""
    job = started(noise(30_000), "model.mixture=ngram", "data.split=[0.6,0.2,0.2]", steps=30)
    for report in trained(job):
        assert report.record.mixture_bits is not None
        assert report.record.mixture_bits > math.log2(9) - 0.002


def test_the_best_is_the_best_mixture(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The network gets better, and the mixture worse: as if the network learned what counts know already."""
    job = started(words(3000), "train.eval_every=10")
    found = iter([500.0, 600.0])
    monkeypatch.setattr(job.training.counts, "fit", lambda each: next(found))
    first, second = trained(job)
    assert second.record.nats < first.record.nats
    assert [first.best, second.best] == [True, False]
    assert first.record.judged_bits == first.record.mixture_bits


@pytest.mark.parametrize("documents", ["none", "line"])
def test_a_resumed_run_has_the_same_mixtures(here: Path, documents: str) -> None:
    settings = f"data.documents={documents}", "train.eval_every=4"
    trained(started(words(2500), *settings, folder="whole"))
    trained(started(words(2500), *settings, folder="halves"), until=11)
    halfway, _ = opened(Path("halves/last.safetensors"))
    job = resume.resume(Run(Path("halves")), CPU)
    assert job.training.counts is not None
    assert job.training.counts.record == halfway.mixture
    trained(job)
    whole, halves = (Path(folder, "best.safetensors").read_bytes() for folder in ("whole", "halves"))
    (first, whole_model), (second, halves_model) = (
        opened(Path(each, "best.safetensors")) for each in ("whole", "halves")
    )
    assert first.mixture == second.mixture
    assert [record.mixture_nats for record in first.history] == [record.mixture_nats for record in second.history]
    for name, table in whole_model.ngram.tables().items():
        np.testing.assert_array_equal(table, halves_model.ngram.tables()[name])
    assert len(whole) == pytest.approx(len(halves), abs=100)  # but for the seconds in the header


def test_a_fine_tuned_model_is_mixed_with_counts_of_the_new_text_over_all_characters(here: Path) -> None:
    trained(started("é" * 30 + words(2000), folder="base"))
    job = started(words(2000, seed=3), folder="tuned", base=Path("base/best.safetensors"))
    trained(job)
    header, model = opened(Path("tuned/best.safetensors"))
    assert "é" in header.vocabulary.characters
    assert header.vocabulary.unseen == 1
    assert model.ngram.size == len(header.vocabulary)
    after, _ = model.step(np.array([[0]]), model.initial_state(1))
    assert np.exp(after).sum() == pytest.approx(1.0)


def test_the_counts_of_the_base_model_are_taken_where_they_predict_better(here: Path) -> None:
    trained(started(words(6000), folder="base"))
    base = Path("base/best.safetensors")
    _, old = opened(base)
    few = words(150, seed=3)
    trained(started(few, "train.eval_every=4", folder="whole", base=base))
    _, tuned = opened(Path("whole/best.safetensors"))
    assert sum(level.counts.sum() for level in tuned.ngram.levels) == sum(
        level.counts.sum() for level in old.ngram.levels
    )
    # of another text the new counts are
    trained(started(noise(6000), "model.mixture=ngram", folder="other", base=base))
    _, other = opened(Path("other/best.safetensors"))
    assert other.ngram.order != old.ngram.order or other.ngram.nbytes != old.ngram.nbytes
    # and a resumed run has the same
    trained(started(few, "train.eval_every=4", folder="halves", base=base), until=9)
    base.unlink()
    trained(resume.resume(Run(Path("halves")), CPU))
    first, second = (opened(Path(each, "best.safetensors")) for each in ("whole", "halves"))
    assert first[0].mixture == second[0].mixture
    for name, table in first[1].ngram.tables().items():
        np.testing.assert_array_equal(table, second[1].ngram.tables()[name])


def test_a_bidirectional_network_is_mixed_forwards(here: Path) -> None:
    trained(started(words(2500), "model.bidirectional=true", steps=10))
    header, model = opened()
    latest = header.latest
    assert model.bidirectional_heads is not None
    assert latest is not None
    assert latest.mixture_nats is not None
    assert latest.backward_nats is not None
    assert latest.cloze_nats is not None
    three = (latest.mixture_nats, latest.backward_nats, latest.cloze_nats)
    assert latest.judged_bits == pytest.approx(sum(three) / 3 / NATS_PER_BIT / latest.characters)


def test_a_long_text_is_counted_only_if_asked_for(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mixing, "MAX_COUNTED", 5000)
    for setting, counted in (("auto", False), ("ngram", True)):
        job = started(words(3000), f"model.mixture={setting}", folder=setting)
        assert (job.training.counts is not None) == counted
        job.run.release()


def test_where_tables_would_be_large_the_order_is_lower(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained(started(words(3000), folder="whole"))
    whole = opened(Path("whole/best.safetensors"))[1].ngram
    monkeypatch.setattr(mixing, "MAX_TABLE_BYTES", whole.nbytes // 3)
    trained(started(words(3000), folder="small"))
    header, model = opened(Path("small/best.safetensors"))
    assert model.ngram.nbytes <= whole.nbytes // 3
    assert header.mixture is not None
    assert 1 < header.mixture.order == model.ngram.order < whole.order


def test_a_mixture_that_was_accepted_stays_while_it_gains(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where gains went to and fro about half a percent, the score jumped, and no later evaluation was the best."""
    job = started(words(3000))
    job.run.release()
    counts = job.training.counts
    assert counts is not None
    network = np.full(100, 1.0)
    table = Weights(np.array([[0.5]]))
    for nats, accepted in ((99.8, False), (99.4, True), (99.8, True), (100.1, False), (99.8, False)):
        found = mixture_weights.Fitted(table, nats)
        monkeypatch.setattr(mixture_weights, "fit", lambda *_, found=found: found)
        assert (counts.fit(network) is not None) == accepted
        assert (counts.record is not None) == accepted
