"""Claims about resolving auto: sizes, steps, precision."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from charrnn import device
from charrnn.config import loading
from charrnn.config.schema import Config
from charrnn.device import Bf16
from charrnn.models import losses
from charrnn.models.architecture import products
from charrnn.models.char_rnn import LOOKED_UP
from charrnn.training import auto_config, fine_tuning, throughput
from charrnn.training.auto_config import TrainingPlan

CPU = torch.device("cpu")
BF16, NO_BF16 = Bf16(fast=True, lstm=True), Bf16(fast=False, lstm=False)


def one_by_one(rate: Callable[[Config, int], float]) -> Callable[..., list[float]]:
    """Measure variants one by one, by a function that gives the speed of one."""
    return lambda sized, ways, size, device: [rate(sized.with_values(train=way), size) for way in ways]


def fake_speeds(patch: pytest.MonkeyPatch, speeds: Callable[..., list[float]]) -> None:
    """Let benchmarks measure these speeds."""
    patch.setattr(throughput, "measure_speeds", speeds)


def planned(
    training: int,
    *settings: str,
    vocabulary: int = 65,
    rate: float = 1e9,
    fine_tuning: bool = False,
    relative_bits: float | None = None,
    ngram_bits: float | None = None,
    unseen: int = 0,
    validation: int | None = None,
    bf16: Bf16 = BF16,
) -> TrainingPlan:
    """Plan for a text of so many characters, on a device of so many multiplications a second."""
    chosen = loading.load(None, settings)
    with pytest.MonkeyPatch.context() as patch:
        fake_speeds(patch, one_by_one(lambda sized, size: rate * speed(sized) / products(sized.model, size)))
        checked = training // 18 if validation is None else validation
        return auto_config.plan(
            chosen,
            vocabulary,
            training,
            checked,
            CPU,
            fine_tuning=fine_tuning,
            relative_bits=relative_bits,
            ngram_bits=ngram_bits,
            unseen=unseen,
            bf16=bf16,
        )


def speed(sized: Config) -> float:
    """Make bf16 twice as fast, and the custom kernel a little faster or slower, by precision."""
    return {"fp32": 1.0, "bf16": 2.0}[sized.train.precision] * (
        1.0 if sized.train.kernel == "torch" else {"fp32": 0.9, "bf16": 1.1}[sized.train.precision]
    )


def resolved(config: Config) -> bool:
    return not config.model.unresolved and "auto" not in config.train.model_dump().values()


@pytest.mark.parametrize("training", [90, 1_000, 9_000, 90_000, 900_000, 9_000_000, 900_000_000])
@pytest.mark.parametrize(
    "settings", [(), ("train.time=10m",), ("train.epochs=3",), ("train.steps=7",), ("model.cell=hmm",)], ids=str
)
def test_no_auto_is_left_at_any_size(training: int, settings: tuple[str, ...]) -> None:
    result = planned(training, *settings)
    assert resolved(result.config)
    train = result.config.train
    assert isinstance(train.batch_size, int)
    assert train.batch_size * train.sequence_length <= training


def test_a_larger_text_gets_a_larger_model() -> None:
    sizes = [
        int(planned(n, rate=1e15).config.model.hidden_size) for n in (9_000, 90_000, 300_000, 3_000_000, 900_000_000)
    ]
    assert sizes == sorted(sizes)
    assert len(set(sizes)) >= 4


def test_the_time_that_benchmarks_take_is_not_planned_with(monkeypatch: pytest.MonkeyPatch) -> None:
    fixed = ("model.hidden_size=64", "model.num_layers=1", "train.precision=fp32", "train.kernel=torch")
    now = 0.0
    monkeypatch.setattr("time.perf_counter", lambda: now)

    def plan_with(seconds: float, benchmark: float) -> Config:
        def speeds(sized: Config, ways: list[dict[str, str]], *_: object) -> list[float]:
            nonlocal now
            now += benchmark
            return [10_000.0] * len(ways)

        with monkeypatch.context() as patch:
            fake_speeds(patch, speeds)
            chosen = loading.load(None, [*fixed, "train.batch_size=8", f"train.time={seconds}"])
            return auto_config.plan(chosen, 65, 1_000_000, 10_000, CPU, bf16=BF16).config

    whole, less, half = plan_with(600, 0.0), plan_with(600, 300.0), plan_with(300, 0.0)
    assert less.train.eval_every == half.train.eval_every != whole.train.eval_every


def test_a_short_time_is_not_spent_on_benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    now, steps = 0.0, 0

    def slow_step(*_: object) -> float:
        nonlocal now, steps
        now, steps = now + 0.5, steps + 1
        return 0.5

    monkeypatch.setattr(throughput, "_time_step", slow_step)
    monkeypatch.setattr("time.perf_counter", lambda: now)
    for limit, expected in (("10s", 2), ("null", 4), ("10m", 4)):
        steps = 0
        model = (
            "model.hidden_size=8",
            "model.num_layers=1",
            "model.embedding_size=4",
            "model.dropout=0",
            "model.tie_weights=false",
        )
        chosen = loading.load(None, [*model, "train.batch_size=2", f"train.time={limit}"])
        assert throughput.measure_speeds(chosen, [{}], 9, CPU) == [2 * 128 / 0.5]
        assert steps == expected  # the first of them a warm-up


def test_larger_sizes_are_not_tried_if_that_takes_a_fifth_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("time.perf_counter", lambda: now)

    def speeds(sized: Config, ways: list[dict[str, str]], *_: object) -> list[float]:
        nonlocal now
        now += 0.5
        return [1e6] * len(ways)

    fake_speeds(monkeypatch, speeds)
    for limit, expected in (("24s", 128), ("26s", 256)):
        chosen = loading.load(None, [f"train.time={limit}", "model.num_layers=1"])
        assert auto_config.plan(chosen, 65, 300_000, 10_000, CPU, bf16=BF16).config.model.hidden_size == expected


def test_an_evaluation_that_takes_most_of_the_time_is_told() -> None:
    for validation, told in ((4_000_000, True), (1_000, False)):
        notes = planned(300_000, "train.time=10s", validation=validation, rate=1e10).notes
        assert any("more than half of the time left" in note for note in notes) == told


def test_a_slow_device_gets_a_smaller_model_and_fewer_epochs() -> None:
    slow, fast = planned(1_000_000, rate=1e9).config, planned(1_000_000, rate=1e11).config
    assert int(slow.model.hidden_size) < int(fast.model.hidden_size)


def test_the_planned_reading_fits_the_time() -> None:
    for rate in (1e9, 1e10, 1e11):
        chosen = planned(1_000_000, rate=rate).config
        reading = (
            (chosen.train.epochs or 0) * 1_000_000
            if chosen.train.steps is None
            else (chosen.train.steps * int(chosen.train.batch_size) * chosen.train.sequence_length)
        )
        seconds = float(reading) * products(chosen.model, 65) / (2 * rate)
        assert seconds <= 15 * 60


def test_thousands_of_characters_share_their_weights() -> None:
    assert planned(1_000_000, vocabulary=2_000).config.model.tie_weights is False
    assert planned(1_000_000, vocabulary=2_001).config.model.tie_weights is True
    assert planned(1_000_000, "model.tie_weights=false", vocabulary=2_001).config.model.tie_weights is False
    assert planned(1_000_000, "model.tie_weights=true", vocabulary=65).config.model.tie_weights is True
    assert "tied embedding 128" in planned(1_000_000, vocabulary=2_001).notes[-1]
    assert "tied embedding 256" in planned(90_000_000, vocabulary=2_001, rate=1e15).notes[-1]
    assert "tied embedding 256" in planned(300_000, vocabulary=2_001).notes[-1]  # as wide as the layer
    assert "tied embedding 64" in planned(1_000_000, "model.tie_weights=true", vocabulary=65).notes[-1]
    # few weights beside the head's rows: more of them cost little
    sizes = [
        planned(1_000_000, f"model.tie_weights={tied}", "train.time=2m", vocabulary=9_000, rate=2e10).config.model
        for tied in ("true", "false")
    ]
    assert [int(model.hidden_size) for model in sizes] == [512, 128]
    # unseen characters do not count
    assert planned(1_000_000, vocabulary=2_001, unseen=1).config.model.tie_weights is False


def test_a_short_text_stops_before_it_is_overfitted() -> None:
    epochs = [planned(n, rate=1e15).config.train.epochs for n in (9_000, 30_000, 300_000, 3_000_000)]
    assert epochs == [10, 14, 24, 40]
    assert planned(400, rate=1e15).config.train.epochs == 100  # of two steps each
    assert planned(9_000, rate=1e15).config.train.eval_every == 10 * 36 // 5
    assert planned(9_000, "model.cell=hmm", rate=1e15).config.train.epochs == 40


def test_the_shorter_a_text_the_more_dropout_and_the_smaller_its_batches() -> None:
    chosen = [planned(n, rate=1e15).config for n in (27_000, 90_000, 270_000, 900_000)]
    assert [each.model.dropout for each in chosen] == [0.5, 0.5, 0.3, 0.5]  # the last for its many epochs
    assert [each.train.batch_size for each in chosen] == [2, 4, 16, 32]
    hurried = [planned(90_000, f"train.time={seconds}s", rate=1e15).config.train.batch_size for seconds in (89, 90)]
    assert hurried == [16, 4]  # larger ones read faster
    assert planned(90_000, "train.epochs=2").config.model.dropout == 0.0  # hardly overfitted


def test_a_text_that_counting_predicts_gets_no_dropout() -> None:
    """With it, 6 of 100 poems had the four lines of all poems of the text; without it, all of them."""
    dropouts = [planned(38_000, ngram_bits=bits).config.model.dropout for bits in (0.4, 0.7, 0.71, None)]
    assert dropouts == [0.0, 0.0, 0.5, 0.5]
    assert planned(38_000, "model.dropout=0.2", ngram_bits=0.4).config.model.dropout == 0.2


def test_a_longer_text_that_counting_predicts_well_gets_less_dropout() -> None:
    lengths_and_bits = [(50_000, 4.0), (50_000, 4.1), (90_000, 4.0), (90_000, 4.1)]
    dropouts = [planned(n, ngram_bits=bits, rate=1e15).config.model.dropout for n, bits in lengths_and_bits]
    assert dropouts == [0.5, 0.5, 0.3, 0.5]


def test_fine_tuning_takes_fewer_and_larger_steps_than_a_fresh_start() -> None:
    """Its rates, and what it forgets, were measured with these."""
    tuned = planned(90_000, fine_tuning=True, rate=1e15).config
    assert (tuned.train.batch_size, tuned.train.epochs, tuned.model.dropout) == (16, 13, 0.3)


def test_characters_that_come_seldom_get_a_narrow_embedding_of_their_own() -> None:
    """A wide one is memorised with the text."""
    train = planned(27_000, vocabulary=2_701).config.train
    assert (train.batch_size, train.learning_rate) == (4, 0.008)

    def embedding(training: int, vocabulary: int, *settings: str) -> tuple[object, object]:
        model = planned(training, *settings, vocabulary=vocabulary, rate=1e15).config.model
        return model.embedding_size, model.tie_weights

    assert embedding(9_000, 901) == (32, False)
    assert embedding(9_000, 900) == (128, False)
    assert embedding(27_000, 2_701) == (32, False)
    assert embedding(27_000, 2_700) == (192, True)
    assert embedding(27_000, 2_701, "model.embedding_size=150") == (150, True)
    assert embedding(27_000, 2_701, "model.tie_weights=true") == (192, True)


@pytest.mark.parametrize(("steps", "evaluations"), [(40, 1), (70, 2), (119, 4), (121, 4), (240, 8), (6_000, 25)])
def test_evaluations_on_a_large_validation_split_take_little_of_the_time(steps: int, evaluations: int) -> None:
    """A tenth; but at least three evaluations from one epoch on, which is 120 steps, to see overfitting."""
    train = planned(491_520, f"train.steps={steps}", "train.batch_size=32", validation=36_000).config.train
    assert isinstance(train.eval_every, int)
    assert math.ceil(steps / train.eval_every) == evaluations  # and none just before the last
    much = planned(491_520, f"train.steps={steps}", "train.batch_size=32", validation=400_000).config.train
    assert isinstance(much.eval_every, int)
    assert math.ceil(steps / much.eval_every) == (
        1 if steps < 120 else max(3, math.floor(steps * 4096 * 0.3 / 400_000))
    )


def test_spare_time_is_not_spent_on_overfitting() -> None:
    spare = planned(9_000, "train.time=10m", rate=1e15)
    assert (spare.config.train.epochs, spare.config.train.time) == (10, 600.0)
    assert "10 epochs, about" in spare.notes[-1]
    assert "of the 10 minutes given" in spare.notes[-1]
    scarce = planned(9_000_000, "train.time=10m", rate=1e10)
    assert (scarce.config.train.epochs, scarce.config.train.steps) == (None, None)
    assert scarce.notes[-1].endswith(": 10 minutes.")
    assert planned(9_000, "train.time=10m", "train.epochs=90", rate=1e15).config.train.epochs == 90
    for otherwise in ("model.cell=hmm", "train.epochs=null"):
        assert planned(9_000, "train.time=10m", otherwise, rate=1e15).config.train.epochs is None


def test_settings_of_the_user_are_kept() -> None:
    chosen = planned(
        500_000,
        "model.hidden_size=77",
        "model.dropout=0.33",
        "train.batch_size=9",
        "train.eval_every=123",
        "train.learning_rate=0.5",
        "train.weight_decay=0",
        "train.patience=null",
        "train.precision=fp32",
        "model.embedding_size=11",
    ).config
    assert (chosen.model.hidden_size, chosen.model.dropout, chosen.model.embedding_size) == (77, 0.33, 11)
    assert (chosen.train.batch_size, chosen.train.eval_every, chosen.train.learning_rate) == (9, 123, 0.5)
    assert (chosen.train.patience, chosen.train.precision, chosen.train.weight_decay) == (None, "fp32", 0)


@pytest.mark.parametrize(
    ("settings", "precision", "kernel"),
    [
        ((), "bf16", "custom"),
        (("train.precision=fp32",), "fp32", "torch"),
        (("train.kernel=torch",), "bf16", "torch"),
        (("train.kernel=custom", "train.precision=fp32"), "fp32", "custom"),
        (("model.leak=0.5", "train.precision=fp32"), "fp32", "custom"),  # torch has no kernel for it
    ],
)
def test_the_fastest_variant_is_chosen_of_those_available(
    settings: tuple[str, ...], precision: str, kernel: str
) -> None:
    train = planned(500_000, *settings).config.train
    assert (train.precision, train.kernel) == (precision, kernel)


@pytest.mark.parametrize(
    ("settings", "precision", "kernel", "warned"),
    [
        ((), "fp32", "torch", False),
        (("train.precision=bf16",), "bf16", "custom", True),  # torch's LSTM kernel would fail
        (("train.precision=bf16", "train.kernel=torch"), "bf16", "custom", True),
        (("train.precision=bf16", "train.kernel=torch", "model.cell=gru"), "bf16", "torch", True),
    ],
)
def test_without_bf16_on_the_cpu_a_variant_that_runs_is_chosen_and_the_user_warned(
    settings: tuple[str, ...], precision: str, kernel: str, warned: bool
) -> None:
    found = planned(500_000, *settings, bf16=NO_BF16)
    assert (found.config.train.precision, found.config.train.kernel) == (precision, kernel)
    assert ("bf16 is slow on cpu: -s train.precision=fp32 is faster, and no less accurate." in found.notes) == warned


@pytest.mark.parametrize(
    ("length", "decay"),
    [
        ("train.epochs=2", 0.1),
        ("train.epochs=3", 0.3),  # though the last window is shorter
        ("train.steps=359", 0.1),
        ("train.steps=361", 0.3),
    ],
)
def test_more_epochs_get_more_weight_decay(length: str, decay: float) -> None:
    train = planned(491_521, length, "train.batch_size=32", rate=1e15).config.train
    assert train.weight_decay == decay


@pytest.mark.parametrize(
    ("settings", "decay"),
    [
        (("train.epochs=4",), 0.076),  # 732 steps an epoch
        (("train.epochs=4", "train.learning_rate=0.03"), 0.038),
        (("train.epochs=4", "train.learning_rate=0.0005"), 0.3),  # the most
        (("train.epochs=2",), 0.076),
        (("train.epochs=2", "train.learning_rate=0.0005"), 0.1),  # the most below three
        (("train.steps=600",), 0.093),
        (("train.steps=7",), 0.1),
        (("train.epochs=4", "train.learning_rate=0.015", "train.optimizer=rmsprop"), 0.076),
    ],
)
def test_weights_average_about_the_last_epoch_however_many_steps_it_has(
    settings: tuple[str, ...], decay: float
) -> None:
    train = planned(3_000_000, "model.hidden_size=256", "train.batch_size=32", *settings, rate=1e15).config.train
    assert train.weight_decay == pytest.approx(decay)


@pytest.mark.parametrize(
    ("settings", "faster"),
    [
        (("train.precision=fp32",), 2.0),
        (("train.precision=bf16",), 2 * 1.2),  # in which training is twice as fast here
        (("train.precision=fp32", "model.bidirectional=true"), 1.0),
    ],
)
def test_an_evaluation_is_estimated_to_read_faster_than_training(settings: tuple[str, ...], faster: float) -> None:
    """With 6,000 characters, trained in bf16, it takes nearly as long: twice the time given was taken."""
    result = planned(
        900_000, "model.hidden_size=256", "model.num_layers=1", "train.kernel=torch", *settings,
        rate=1e9, validation=50_000,
    )  # fmt: skip
    rate = 1e9 / products(result.config.model, 65)
    assert result.evaluation_seconds == pytest.approx(50_000 / (rate * faster))


@pytest.mark.parametrize("cell", ["lstm", "hmm"])
def test_a_step_decays_the_weights_equally_with_every_optimizer(cell: str) -> None:
    adamw, rmsprop, sgd = (
        planned(500_000, f"train.optimizer={name}", f"model.cell={cell}").config.train
        for name in ("adamw", "rmsprop", "sgd")
    )
    shares = [float(each.learning_rate) * float(each.weight_decay) for each in (adamw, rmsprop, sgd)]
    assert shares == pytest.approx([shares[0]] * 3)


@pytest.mark.parametrize("model", ["model.cell=hmm", "model.cell=rnn", "model.init=identity"])
def test_logits_of_an_hmm_and_cells_without_gates_get_little_weight_decay(model: str) -> None:
    """An HMM's logits go far, at a high rate; an identity matrix must not shrink."""
    assert planned(500_000, model).config.train.weight_decay == 0.01


@pytest.mark.parametrize(
    ("cell", "vocabulary", "hidden", "rate"),
    [("lstm", 65, 256, 0.015), ("lstm", 2_001, 256, 0.008), ("gru", 65, 256, 0.008), ("gru", 65, 1024, 0.004)],
)
def test_rare_characters_and_grus_get_a_lower_learning_rate(
    cell: str, vocabulary: int, hidden: int, rate: float
) -> None:
    settings = (f"model.cell={cell}", f"model.hidden_size={hidden}")
    assert planned(500_000, *settings, vocabulary=vocabulary).config.train.learning_rate == rate


def test_fine_tuning_gets_a_lower_learning_rate() -> None:
    fresh, tuned = planned(500_000).config.train, planned(500_000, fine_tuning=True).config.train
    assert float(tuned.learning_rate) < float(fresh.learning_rate)


def test_the_better_a_model_predicts_a_text_the_lower_its_fine_tuning_rate() -> None:
    rates = [fine_tuning.fine_tuning_rate(known) for known in (0.1, 0.75, 0.78, 0.89, 1.0, 3.0)]
    assert rates == [0.00041, 0.00041, 0.00056, 0.0017, 0.005, 0.005]

    def tuned(relative_bits: float | None, *settings: str) -> float:
        return float(
            planned(500_000, *settings, fine_tuning=True, relative_bits=relative_bits).config.train.learning_rate
        )

    assert tuned(0.78, "model.hidden_size=256") == 0.00056
    assert tuned(0.78, "model.hidden_size=256", "train.optimizer=sgd") == pytest.approx(0.056)
    assert tuned(0.78, "model.hidden_size=256", "train.learning_rate=0.003") == 0.003
    assert tuned(0.89, "model.hidden_size=1024") == tuned(None, "model.hidden_size=1024")  # lower anyway
    assert tuned(1.5, "model.hidden_size=256") == tuned(None, "model.hidden_size=256") == 0.005
    assert tuned(0.5, "model.cell=hmm") == tuned(None, "model.cell=hmm")


def test_the_distillation_weight_falls_as_a_model_gets_worse_than_n_grams() -> None:
    shares = [fine_tuning.distillation_weight(bits, 2.0) for bits in (0.0, 2.0, 2.4, 2.5, 2.6, 2.8, 20.0)]
    assert shares == [0.3, 0.3, 0.3, 0.22, 0.15, 0.0, 0.0]
    assert fine_tuning.distillation_weight(0.1, 0.0) == 0.0


def test_benchmarks_include_the_teacher() -> None:
    """It takes time and memory."""
    read: list[float] = []
    settings = "model.hidden_size=8", "model.num_layers=1", "model.embedding_size=4"
    with pytest.MonkeyPatch.context() as patch:
        sound = losses.compute_losses

        def costs(*arguments: Any) -> Any:
            read.append(0.0 if arguments[-1] is None else arguments[-1].weight)
            assert arguments[-1] is None or arguments[-1].weight > 0.0
            return sound(*arguments)

        patch.setattr(losses, "compute_losses", costs)
        for share in (0.3, 0.0):
            chosen = loading.load(None, [*settings, f"train.distillation={share}"])
            found = auto_config.plan(chosen, 65, 9_000, 500, CPU, fine_tuning=True)
            assert found.config.train.distillation == share
            assert len(read) > 3
            assert set(read) == {share}
            read.clear()
    assert planned(9_000).config.train.distillation == 0.0


def test_spent_time_is_not_planned_again() -> None:
    chosen = loading.load(
        None, ["train.time=100s", "train.eval_every=auto", "model.hidden_size=512", "model.num_layers=2"]
    )
    epochs = []
    with pytest.MonkeyPatch.context() as patch:
        rate = one_by_one(lambda sized, size: 1e9 / products(sized.model, size))
        fake_speeds(patch, rate)
        for spent in (0.0, 50.0, 99.0):
            found = auto_config.plan(chosen, 65, 900_000, 50_000, CPU, spent=spent).config.train
            assert isinstance(found.eval_every, int)
            epochs.append(found.eval_every)
    assert epochs[0] > epochs[1] > epochs[2] > 0


def test_short_texts_shrink_windows_and_batch_and_say_so() -> None:
    notes = " ".join(planned(90).notes)
    assert "windows of 45 characters instead of 128" in notes
    notes = " ".join(planned(300, "train.batch_size=64").notes)
    assert "batch size 2" in notes


def test_the_counted_products_are_the_models_matrices() -> None:
    from charrnn.models.factory import make_model

    for cell, tied, both in itertools.product(("rnn", "gru", "lstm"), (False, True), (False, True)):
        sizes = {"hidden_size": 5, "num_layers": 3, "embedding_size": 4, "dropout": 0.0, "tie_weights": tied}
        chosen = loading.load(None, [f"model.cell={cell}"]).model.model_copy(update={**sizes, "bidirectional": both})
        weights = {name: matrix for name, matrix in make_model(chosen, 7).named_parameters() if matrix.dim() > 1}
        # the head's matrix serves either half and both together; tables are looked up, not multiplied
        head = (3 if both else 1) * weights.pop("embedding" if tied else "head").numel()
        layers = [matrix.numel() for name, matrix in weights.items() if name not in LOOKED_UP]
        assert products(chosen, 7) == head + sum(layers)


@pytest.mark.bf16
def test_a_real_benchmark_resolves_everything() -> None:
    chosen = loading.load(None, ["train.batch_size=2", "train.sequence_length=5", "model.hidden_size=4"])
    result = auto_config.plan(chosen, 7, 1_000, 100, CPU)
    assert resolved(result.config)
    assert "characters (7 distinct)" in result.notes[-1]


def test_a_size_that_does_not_fit_says_nothing_about_the_variants_of_a_smaller_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def rate(sized: Config, size: int) -> float:
        return 0.0 if int(sized.model.hidden_size) > 256 else 1e11 * speed(sized) / products(sized.model, size)

    fake_speeds(monkeypatch, one_by_one(rate))
    chosen = auto_config.plan(loading.load(None, ()), 65, 1_000_000, 50_000, CPU, bf16=BF16).config
    assert (chosen.model.hidden_size, chosen.train.precision, chosen.train.kernel) == (256, "bf16", "custom")


def test_on_cuda_bf16_is_tried_where_cudnn_has_it() -> None:
    for bf16, expected in ((BF16, ["fp32", "bf16"]), (NO_BF16, ["fp32"])):
        for settings, precisions in (((), expected), (("train.precision=bf16",), ["bf16"])):  # if set, it is used
            ways = throughput.list_variants(loading.load(None, settings), torch.device("cuda"), bf16)
            assert ways == [{"precision": precision, "kernel": "torch"} for precision in precisions]


def test_a_benchmark_counts_every_window_it_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several windows are in flight at once on a GPU; the clock runs over all of them."""
    ticks = iter(range(1000))
    monkeypatch.setattr("time.perf_counter", lambda: float(next(ticks)))
    chosen = loading.load(
        None,
        [
            "model.hidden_size=5",
            "model.num_layers=1",
            "model.embedding_size=4",
            "model.dropout=0",
            "model.tie_weights=false",
            "train.batch_size=3",
            "train.sequence_length=7",
            "train.precision=fp32",
            "train.kernel=torch",
        ],
    )
    assert throughput.measure_speeds(chosen, [{"kernel": "torch"}, {"kernel": "custom"}], 9, CPU) == [
        3 * 7 / 1.0,
        3 * 7 / 1.0,
    ]


def test_unseen_characters_only_cost_time() -> None:
    """Batch, learning rate and notes depend on the characters of the text; the vocabulary only costs time."""
    sizes = "model.hidden_size=256", "model.num_layers=1", "model.embedding_size=64"
    chinese, english, alone = (
        planned(1_000_000, *sizes, vocabulary=vocabulary, unseen=unseen, rate=1e11, fine_tuning=True)
        for vocabulary, unseen in ((5_000, 0), (5_000, 4_935), (65, 0))
    )
    assert english.config.train.batch_size == alone.config.train.batch_size == 32
    assert chinese.config.train.batch_size == 16
    rates = [each.config.train.learning_rate for each in (chinese, english, alone)]
    assert rates == pytest.approx([8e-3 / 3, 15e-3 / 3, 15e-3 / 3])
    assert "(65 distinct)" in english.notes[-1]


@pytest.mark.parametrize(("narrower", "batches"), [(1.0, 8), (0.8, 8), (0.7, 32)])
def test_little_time_gets_a_smaller_batch_only_if_that_makes_more_steps(
    narrower: float, batches: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`narrower` is the relative speed of half the batch; the time is too short for 600 steps of batch 32."""

    def rate(sized: Config, size: int) -> float:
        return 1e4 * math.pow(narrower, math.log2(32 / int(sized.train.batch_size)))

    fake_speeds(monkeypatch, one_by_one(rate))
    chosen = loading.load(None, ["model.hidden_size=256", "train.time=30"])
    result = auto_config.plan(chosen, 65, 1_000_000, 50_000, CPU)
    assert result.config.train.batch_size == batches
    assert result.config.train.steps is None


def test_kernels_are_compared_at_every_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """The custom kernel is the faster one from 512 units on."""

    def rate(sized: Config, size: int) -> float:
        width = int(sized.model.hidden_size)
        fast = (sized.train.kernel == "custom") == (width >= 512) and sized.train.precision == "bf16"
        return (2e10 if fast else 1e10) / products(sized.model, size)

    fake_speeds(monkeypatch, one_by_one(rate))
    for time, kernel in ((60, "torch"), (6_000, "custom")):
        chosen = auto_config.plan(
            loading.load(None, [f"train.time={time}"]), 65, 3_000_000, 150_000, CPU, bf16=BF16
        ).config
        assert (int(chosen.model.hidden_size) >= 512) == (kernel == "custom")
        assert (chosen.train.kernel, chosen.train.precision) == (kernel, "bf16")


def test_on_cuda_the_first_step_of_every_variant_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each loads its own kernels, which takes longer than many steps."""
    seen = set[str]()

    def step(model: object, sized: Config, device: torch.device) -> float:
        way = sized.train.precision
        loading = 0.2 * (way not in seen)
        seen.add(way)
        return {"fp32": 0.010, "bf16": 0.004}[way] + loading

    monkeypatch.setattr(throughput, "_time_step", step)
    monkeypatch.setattr(throughput, "_zero_model", lambda config, size, device: None)
    chosen = loading.load(None, ["train.batch_size=3", "train.sequence_length=7"])
    rates = throughput.measure_speeds(chosen, [{"precision": "fp32"}, {"precision": "bf16"}], 9, torch.device("cuda"))
    assert rates == pytest.approx([21 / 0.010, 21 / 0.004])


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("CUDA out of memory. Tried to allocate 2.00 GiB", True),
        ("[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can't allocate memory: you tried", True),
        ("cuDNN error: CUDNN_STATUS_ALLOC_FAILED", True),
        ("Storage size calculation overflowed with sizes=[9]", True),
        ("numel: integer multiplication overflow", True),
        ("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED", True),
        ("CUDA error: an illegal memory access was encountered", False),
        ("CUDA error: invalid memory access", False),
        ("Could not run 'aten::empty.memory_format' with arguments from the 'CUDA' backend.", False),
        ("unsupported operation: some elements refer to a single memory location", False),
        ("value cannot be converted to type int64_t without overflow", False),
        ("mat1 and mat2 shapes cannot be multiplied (3x4 and 5x6)", False),
    ],
)
def test_out_of_memory_errors_are_recognised(message: str, expected: bool) -> None:
    assert device.is_out_of_memory(RuntimeError(message)) == expected


def test_a_hopeless_variant_gets_one_step_and_one_that_does_not_fit_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others take turns, so that other load on the machine slows them alike; the very first step is slow for any
    variant, and is not counted."""
    tried: list[str] = []

    def step(model: object, sized: Config, device: torch.device) -> float:
        way = f"{sized.train.precision} {sized.train.kernel}"
        tried.append(way)
        if way == "bf16 custom":
            raise torch.OutOfMemoryError("out of memory")
        return {"fp32 torch": 2.0, "fp32 custom": 1.0, "bf16 torch": 9.0}[way] + 20.0 * (len(tried) == 1)

    monkeypatch.setattr(throughput, "_time_step", step)
    settings = ["model.hidden_size=4", "model.num_layers=1", "model.embedding_size=4", "model.dropout=0"]
    settings += ["model.tie_weights=false", "train.batch_size=3", "train.sequence_length=7"]
    chosen = loading.load(None, settings)
    ways = [
        {"precision": precision, "kernel": kernel} for precision in ("fp32", "bf16") for kernel in ("torch", "custom")
    ]
    rates = throughput.measure_speeds(chosen, ways, 9, CPU)
    turn = ["fp32 torch", "fp32 custom"]
    assert tried == ["fp32 torch", *turn, "bf16 torch", "bf16 custom", *turn, *turn]
    assert rates == [21 / 2, 21 / 1, 21 / 9, 0.0]
    tried.clear()
    assert throughput.measure_speeds(chosen, ways[3:], 9, CPU) == [0.0]
    assert tried == ["bf16 custom"]


def test_sizes_far_too_large_are_not_benchmarked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of the largest size takes seconds, much of a short training."""
    tried: list[int] = []

    def rate(sized: Config, size: int) -> float:
        tried.append(int(sized.model.hidden_size))
        return 2e10 / products(sized.model, size)

    fake_speeds(monkeypatch, one_by_one(rate))
    chosen = auto_config.plan(
        loading.load(None, ["train.time=2m", "model.num_layers=2"]), 65, 3_000_000, 150_000, CPU, bf16=BF16
    ).config
    assert set(tried) == {128, 384, 256}
    assert chosen.model.hidden_size == 256


@pytest.mark.parametrize(
    ("training", "settings", "layers"),
    [
        (3_000_000, ["train.time=2m"], 1),
        (3_000_000, ["train.time=2h"], 2),
        (300_000, ["train.time=2m"], 2),
        (100_000, ["train.time=2h"], 1),
        (3_000_000, ["train.time=2m", "model.num_layers=3"], 3),
        (3_000_000, ["train.epochs=1"], 2),  # however long that takes
    ],
)
def test_a_second_layer_needs_time_for_two_epochs(training: int, settings: list[str], layers: int) -> None:
    model = planned(training, *settings, rate=1e10).config.model
    assert model.num_layers == layers
    if training == 3_000_000 and layers == 1:
        assert model.hidden_size == 256
