"""Claims about a CUDA device: training never waits, resumes exactly and agrees with the CPU, and so does generation.
Run with `make gpu`; without a device they hold on a fake one."""

from __future__ import annotations

import json
import re
import runpy
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from charrnn.checkpoints import model_file
from charrnn.checkpoints.run_dir import Run
from charrnn.config import loading
from charrnn.data import loader
from charrnn.data.batches import ContiguousBatches
from charrnn.device import Readback, choose_device, cudnn_takes_bf16, tf32
from charrnn.evaluation import scoring
from charrnn.generation.filters import Filters
from charrnn.generation.sampling import Sampler
from charrnn.models.cells import StepState
from charrnn.models.torch_model import TorchModel, TorchState, cuda_graph
from charrnn.training import fine_tuning, new_run, resume
from charrnn.training.events import Finished, RolledBack, StepDone
from charrnn.training.job import TrainingJob
from charrnn.training.training_step import Training
from tests.conftest import CELLS, TEXT, TINY, Charrnn, settings
from tests.data.test_loader import assert_same, batches_of
from tests.fake_cuda import fake_cuda
from tests.fake_device import CUDA
from tests.models.test_cells import FUSED
from tests.models.test_char_rnn import some_state, some_tokens, to_be_rounded
from tests.models.test_numpy_model import made
from tests.models.test_torch_model import OPTIONS
from tests.test_benchmarks import BENCHMARKS
from tests.training.test_training_step import assert_same_run, poison, run_until

# torch warns once that its sync debug mode is a prototype
pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("ignore:Synchronization debug mode")]
VARIANTS = (
    (),
    ("model.cell=gru", "train.precision=bf16"),
    ("model.cell=rnn", "train.optimizer=rmsprop"),
    ("model.cell=lstm", "train.precision=bf16", "data.documents=line", "train.weight_decay=0.1"),
    ("model.cell=lstm", "model.leak=0.5", "model.time_skip=3", "model.layer_norm=true", "train.kernel=custom"),
    ("model.cell=gru", "train.kernel=custom", "train.precision=bf16"),
    ("model.cell=gru", "train.optimizer=sgd", "train.clip_value=0.1", "train.l1=0.0001", "model.tie_weights=true"),
    ("model.bidirectional=true", "model.cell=lstm", "train.precision=bf16"),
    ("model.cell=hmm", "model.hidden_size=5"),
)
variants = pytest.mark.parametrize("more", VARIANTS, ids=" ".join)
SMALL = 1e-9  # like gradients of a mean over thousands of characters, which underflow in fp16


@pytest.fixture(autouse=True)
def cuda(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    """Choose the device; with --fake-cuda, a fake one."""
    with fake_cuda() if request.config.getoption("fake_cuda") else nullcontext():
        assert torch.cuda.is_available(), "no CUDA device here"
        yield choose_device("cuda")


def tiny(*more: str) -> list[str]:
    """Return the settings of a tiny training; an HMM has no layers to set."""
    return [setting for setting in TINY if "model.cell=hmm" not in more or setting.startswith("train.")]


def started(folder: str, *more: str, device: str = "cuda", steps: int = 23) -> TrainingJob[Training]:
    options = loading.load(None, [*tiny(*more), f"train.steps={steps}", *more]).with_values(
        data={"texts": ["text.txt"]}
    )
    return new_run.start(options, Path(folder), torch.device(device))


@pytest.fixture
def no_waiting() -> Iterator[None]:
    """Reset what makes every wait an error."""
    yield
    torch.cuda.set_sync_debug_mode("default")


# Training


def step_without_waiting(training: Training, steps: int) -> None:
    """Take some steps, after three in which libraries initialise themselves."""
    for _ in range(3):
        training.step()
    torch.cuda.set_sync_debug_mode("error")
    for _ in range(steps):
        training.step()
    torch.cuda.set_sync_debug_mode("default")
    assert all(isinstance(report, StepDone) for report in training.settle())


@variants
def test_training_never_waits_for_the_device(here: Path, no_waiting: None, more: tuple[str, ...]) -> None:
    job = started("run", *more)
    into_the_next_epoch = job.training.batches.windows + 3  # where documents are in another order
    step_without_waiting(job.training, into_the_next_epoch)
    job.run.release()


@variants
def test_windows_sent_one_by_one_do_not_make_it_wait(
    here: Path, no_waiting: None, monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...]
) -> None:
    monkeypatch.setattr(loader, "_SHARE", 1 << 60)  # no device has so much memory
    job = started("run", *more)
    step_without_waiting(job.training, 9)
    job.run.release()


def test_distillation_does_not_make_it_wait(here: Path, no_waiting: None) -> None:
    run_until(started("old"))
    old = Path("old/best.safetensors")
    how = [*(setting for setting in TINY if setting.startswith("train.")), "train.distillation=0.3", "train.steps=20"]
    options = loading.load(None, [*how, "train.precision=bf16"], fine_tuning.fine_tuning_base(old))
    job = new_run.start(options.with_values(data={"texts": ["text.txt"]}), Path("new"), CUDA, init_from=old)
    training = job.training
    assert training.teacher is not None
    step_without_waiting(training, 9)
    training.save_last(job.run)
    job.run.release()
    resumed = resume.resume(job.run, None)
    run_until(resumed, 14)
    assert (resumed.training.position.step, resumed.training.device.type) == (14, "cuda")


def test_steps_are_enqueued_ahead(here: Path) -> None:
    job = started("run")
    assert job.training.lag > 0
    assert job.training.step() is None
    job.run.release()


def test_numbers_are_read_as_they_were_when_asked_for() -> None:
    values = torch.arange(3.0, device="cuda")
    numbers = Readback(values)
    values.zero_()
    assert numbers.read() == [0.0, 1.0, 2.0]


@pytest.mark.parametrize("documents", [None, 9])
@pytest.mark.parametrize("dtype", ["<u1", "<u2", "<u4"])
def test_windows_on_the_device_are_those_of_the_cpu(documents: int | None, dtype: str, cuda: torch.device) -> None:
    one, other = (batches_of(300, 4, 9, 30, documents, dtype) for _ in range(2))
    resident = loader.DeviceBatches(one, cuda)
    for epoch in (0, 1):
        for index in range(one.windows):
            expected = loader.load_batch(other, epoch, index, torch.device("cpu"))
            for way in (resident.window(epoch, index), loader.load_batch(other, epoch, index, cuda)):
                assert all(tensor is None or tensor.is_cuda for tensor in way)
                assert_same(loader.Batch(*(None if tensor is None else tensor.cpu() for tensor in way)), expected)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "more",
    [pytest.param(more, marks=() if "data.documents=line" in more else pytest.mark.slow) for more in VARIANTS],
    ids=" ".join,
)
def test_resume_is_bit_exact(here: Path, more: tuple[str, ...]) -> None:
    run_until(started("whole", *more))
    run_until(started("parts", *more), 4)
    for step in (10, 17, None):
        run_until(resume.resume(Run(Path("parts")), None), step)
    assert_same_run(here / "whole", here / "parts")


def test_windows_from_the_device_and_one_by_one_make_the_same_training(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_until(started("resident"))
    monkeypatch.setattr(loader, "_SHARE", 1 << 60)
    run_until(started("staged"))
    assert_same_run(here / "resident", here / "staged")


def test_a_loss_that_is_not_finite_is_rolled_back(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = started("run")
    poison(monkeypatch, lambda call: call == 8)
    reports = run_until(job)
    assert [report.step for report in reports if isinstance(report, RolledBack)] == [5]
    assert isinstance(reports[-1], Finished)
    assert all(bool(weights.isfinite().all()) for weights in job.training.model.parameters())


@pytest.mark.parametrize("more", [variant for variant in VARIANTS if not any("bf16" in each for each in variant)])
def test_training_agrees_with_the_cpu(here: Path, more: tuple[str, ...]) -> None:
    """Without dropout, whose random numbers differ by device; both sum in fp32, in different orders."""
    bits = []
    certain = [] if "model.cell=hmm" in more else ["model.dropout=0"]
    for device in ("cpu", "cuda"):
        job = started(device, *more, *certain, device=device, steps=10)
        reports = run_until(job)
        bits.append([report.bits_per_character for report in reports if isinstance(report, StepDone)])
    np.testing.assert_allclose(bits[1], bits[0], rtol=2e-3)


@pytest.mark.parametrize(("cell", "activation"), FUSED)
def test_bf16_is_bf16_and_not_fp16(cell: str, activation: str) -> None:
    layer, x, before = to_be_rounded(cell, activation)
    layer, x = layer.cuda().train(), x.cuda().requires_grad_()
    before = StepState(*(None if tensor is None else tensor.cuda() for tensor in before))
    gradients = []
    for rounded in (False, True):
        with tf32(x.device, rounded):
            with torch.autocast("cuda", torch.bfloat16, enabled=rounded):
                y, _ = layer(x, before)
            if rounded:
                assert y.dtype == (torch.bfloat16 if cudnn_takes_bf16() else torch.float32)
            gradients.append(torch.autograd.grad((y.float() * SMALL).sum(), [x, *layer.weights()]))
    for exact, found in zip(*gradients, strict=True):
        assert float(exact.norm()) > 0.0
        assert float((found - exact).norm()) < 0.1 * float(exact.norm())


# Scoring


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_text_scores_as_on_the_cpu(here: Path, precision: str) -> None:
    job = started("run", f"train.precision={precision}", steps=40)
    run_until(job)
    header, model = model_file.read_model(here / "run" / "last.safetensors")
    tokens = header.vocabulary.encode(TEXT * 5 + "鸟\n")
    for exact in (True, False):
        expected = scoring.evaluate(model.cpu(), header.vocabulary, tokens, exact=exact).score
        found = scoring.evaluate(model.cuda(), header.vocabulary, tokens, exact=exact).score
        assert found.characters == expected.characters
        assert found.bits_per_character == pytest.approx(expected.bits_per_character, abs=1e-4 if exact else 1e-3)


# Generation


@pytest.mark.parametrize(
    ("cell", "activation", "options"), [(*pair, options) for pair in CELLS for options in OPTIONS], ids=str
)
def test_a_replayed_step_is_the_step(cell: str, activation: str, options: dict[str, Any]) -> None:
    model = made(cell, activation, options).float()
    state = first = expected_state = TorchState(some_state(model, 3).map(lambda tensor: tensor.cuda()))
    model = model.cuda()
    replayed, plain = TorchModel(model, cuda_graph), TorchModel(model)
    for seed in range(4):
        tokens = some_tokens(3, 1, seed).numpy()
        logits, state = replayed.step(tokens, state)
        expected, expected_state = plain.step(tokens, expected_state)
        np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
        before = logits.copy(), [None if tensor is None else tensor.clone() for tensor in state.tensors]
        replayed.step(some_tokens(3, 1, 9).numpy(), first)  # must not overwrite what was returned before
        np.testing.assert_array_equal(logits, before[0])
        for tensor, old in zip(state.tensors, before[1], strict=True):
            assert tensor is None or (old is not None and torch.equal(tensor, old))
    for mine, theirs in zip(state.tensors, expected_state.tensors, strict=True):
        if mine is not None and theirs is not None:
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("cell", "activation"), CELLS)
@pytest.mark.parametrize("batches", [1, 5, 1024])
def test_a_replayed_step_is_that_of_the_cpu(cell: str, activation: str, batches: int) -> None:
    model = made(cell, activation, {"num_layers": 2}).float()
    tokens, state = some_tokens(batches, 1), some_state(model, batches)
    expected, _ = TorchModel(model).step(tokens.numpy(), TorchState(state))
    there = TorchModel(model.cuda(), cuda_graph)
    found, _ = there.step(tokens.numpy(), TorchState(state.map(lambda tensor: tensor.cuda())))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_training_continues_after_a_graph_was_captured(here: Path) -> None:
    job = started("run")
    training = job.training
    training.step()
    reader = TorchModel(training.model, cuda_graph)
    reader.step(np.array([[1]]), reader.initial_state(1))
    training.step()
    assert all(isinstance(report, StepDone) for report in training.settle())
    job.run.release()


@pytest.mark.slow
def test_samples_are_those_of_the_cpu(here: Path, charrnn: Charrnn) -> None:
    """A trained model is confident, so that a difference in the last bits decides nothing."""
    options = settings("train.steps=300", "model.hidden_size=64", "model.dropout=0")
    trained = charrnn("train", "text.txt", "-q", "--device", "cpu", *options)
    assert trained.exit_code == 0, trained.output
    for options in (
        ["-p", "the ", "-n", "60", "-t", "0.5"],
        ["-n", "40", "-k", "3"],
        ["-p", "the ", "-n", "30", "--beam", "4"],
    ):
        seed = [] if "--beam" in options else ["--seed", "1"]
        texts = [charrnn("sample", *options, *seed, "--device", device) for device in ("cpu", "cuda")]
        assert [text.exit_code for text in texts] == [0, 0], texts[1].output
        assert texts[0].stdout == texts[1].stdout


def test_samples_do_not_depend_on_their_neighbours(here: Path) -> None:
    job = started("run", steps=40)
    run_until(job)
    header, model = model_file.read_model(here / "run" / "last.safetensors")
    reader = TorchModel(model.cuda(), cuda_graph)

    def texts(count: int) -> list[str]:
        filters = Filters(temperature=0.8)
        sampler = Sampler(reader, header.vocabulary, [""] * count, 30, filters, seed=7, indices=list(range(count)))
        for _ in sampler:
            pass
        return [sample.text for sample in sampler.samples]

    assert texts(5)[:2] == texts(2)


# The commands


def test_auto_is_cuda_for_training_and_scoring(here: Path, charrnn: Charrnn) -> None:
    result = charrnn("train", "text.txt", *settings("train.steps=5"))
    assert result.exit_code == 0, result.output
    assert "on cuda" in result.stderr
    header = model_file.read_header(here / "checkpoints" / "text" / "last.safetensors")
    assert header.position is not None
    assert header.position["device"] == "cuda"
    scores = [
        json.loads(charrnn("evaluate", "text.txt", "--json", "--device", device).stdout)["bits_per_character"]
        for device in ("auto", "cuda", "cuda:0", "cpu")
    ]
    np.testing.assert_allclose(scores, scores[-1], atol=1e-3)


COMMANDS = {
    "model.cell=lstm": (
        "evaluate line.txt --exact",
        "evaluate line.txt --dynamic --dynamic-rate 0.1",
        "sample -n 9 --adapt line.txt --greedy",
        "sample -n 9 --beam 3 -p fox",
    ),
    "model.bidirectional=true": ("evaluate line.txt", "sample --infill the_qu_ck", "sample -n 9 --suffix fox -p the"),
    "model.cell=hmm": ("evaluate line.txt", "sample -n 9 --greedy -p fox"),
}


@pytest.mark.parametrize("model", COMMANDS)
def test_commands_do_the_same_as_on_the_cpu(here: Path, charrnn: Charrnn, model: str) -> None:
    learning = (*tiny(model), model, "train.steps=60", "train.learning_rate=0.03")
    trained = charrnn(
        "train", "text.txt", "-q", "--device", "cpu", *(word for setting in learning for word in ("-s", setting))
    )
    assert trained.exit_code == 0, trained.output
    (here / "line.txt").write_text(TEXT[:90])
    for command in COMMANDS[model]:
        results = [charrnn(*command.split(), "--json", "--device", device) for device in ("cpu", "cuda")]
        assert [result.exit_code for result in results] == [0, 0], results[1].output
        expected, found = (json.loads(result.stdout) for result in results)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            if name != "seed":  # of a greedy choice
                assert found[name] == (pytest.approx(value, rel=1e-4) if isinstance(value, float) else value), name


def test_without_settings_it_plans_trains_and_samples(here: Path, charrnn: Charrnn) -> None:
    result = charrnn("train", "text.txt", "--time", "5s", "--device", "cuda")
    assert result.exit_code == 0, result.output
    assert charrnn("sample", "-n", "5", "--device", "cuda").exit_code == 0


def test_a_devices_checkpoint_is_sampled_on_a_cpu(here: Path, charrnn: Charrnn) -> None:
    assert charrnn("train", "text.txt", "--device", "cuda", "-q", *settings("train.steps=5")).exit_code == 0
    last = here / "checkpoints" / "text" / "last.safetensors"
    assert (model_file.read_header(last).position or {})["device"] == "cuda"
    assert charrnn("sample", "-n", "5").exit_code == 0
    assert charrnn("train", "--resume", "--device", "cpu", "-s", "train.steps=8").exit_code == 0
    position = model_file.read_header(last).position or {}
    assert (position["device"], position["step"]) == ("cpu", 8)


def test_the_benchmarks_of_a_device_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")  # one of them sets it
    monkeypatch.syspath_prepend(BENCHMARKS)
    for name, arguments, row in (
        ("training", "--cells gru --sizes 1x8 --batch 2 --length 4", r"charrnn bf16 +[\d,]+ +[\d.]+"),
        ("sampling", "--hidden 8 --layers 1 --vocabulary 9 --batch 1,3", r"charrnn, steps replayed +[\d,]+ +[\d.]+"),
    ):
        main = runpy.run_path(str(BENCHMARKS / f"{name}.py"))["main"]
        for constant, small in (("LARGE", 64), ("STEPS", 2), ("LENGTH", 5)):
            monkeypatch.setitem(main.callback.__globals__, constant, small)
        words = [*arguments.split(), "--rounds", "1", "--device", "cuda"]
        ran = CliRunner().invoke(main, words, catch_exceptions=False)
        assert ran.exit_code == 0, ran.output
        assert re.search(row, ran.output), ran.output


def test_windows_of_a_text_too_large_for_the_device_are_sent(
    monkeypatch: pytest.MonkeyPatch, cuda: torch.device
) -> None:
    batches: ContiguousBatches = batches_of(300, 2, 5, 0, None, "<u1")
    assert isinstance(getattr(loader.make_loader(batches, cuda), "__self__", None), loader.DeviceBatches)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1199, 10**9))
    assert not isinstance(getattr(loader.make_loader(batches, cuda), "__self__", None), loader.DeviceBatches)
