"""Benchmarks of training steps: how many characters a second this device trains on, with each kernel and precision.
Knows configurations and models, not texts. A variant is one precision with one kernel."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import torch

from charrnn.config.schema import Config, resolved
from charrnn.data.loader import Batch
from charrnn.device import Bf16, is_out_of_memory, tf32
from charrnn.models import losses
from charrnn.models.bidirectional import LOOKAHEAD
from charrnn.models.factory import Network, make_model

# an evaluation reads at least so many times as fast as training; what trains in bf16 may be scored in fp32
SLOWEST_SCORING = {"fp32": 2.0, "bf16": 1.2}
ROUNDS = 4  # the first is a warm-up
MAX_SHARE = 0.02  # of a time budget, after which a benchmark has no further round
MAX_SLOWDOWN = 3  # a variant this many times slower than the fastest is not timed again
PROMISING = 0.6  # of the best speed on short windows: such variants are compared on full windows
SHORT_WINDOW = 32  # time steps
GPU_STEPS = 4  # that a GPU is given at once, as in training: it need not wait for the next one
SLOW_EVALUATION = (
    "An evaluation will take about {}, more than half of the time left: give more time, or make the validation split"
    " smaller (data.split)."
)
SLOW_BF16 = "bf16 is slow on {device}: -s train.precision=fp32 is faster, and no less accurate."


def list_variants(config: Config, device: torch.device, bf16: Bf16) -> list[dict[str, str]]:
    """List the precisions and kernels that may train this model here, as train settings."""
    train, model = config.train, config.model
    if model.cell == "hmm":
        return [{"precision": "fp32", "kernel": "torch"}]
    precisions = [train.precision] if train.precision != "auto" else ["fp32", "bf16"] if bf16.fast else ["fp32"]
    variants = []
    for precision in precisions:
        no_lstm = precision == "bf16" and model.cell == "lstm" and device.type == "cpu" and not bf16.lstm
        if model.activation == "leaky_relu" or model.leak is not None or model.time_skip is not None or no_lstm:
            kernels = ["custom"]  # torch has none
        elif train.kernel != "auto":
            kernels = [str(train.kernel)]
        else:
            kernels = ["torch", "custom"] if device.type == "cpu" else ["torch"]  # a GPU starves on many small calls
        variants += [{"precision": precision, "kernel": kernel} for kernel in kernels]
    return variants


def fastest_variant(
    config: Config, variants: Sequence[dict[str, str]], vocabulary_size: int, device: torch.device
) -> tuple[Config, float]:
    """Return the configuration with the fastest variant, and its characters per second."""
    # on a GPU, launching a short window takes as long as running it, whatever the variant
    if len(variants) > 1 and device.type == "cpu":
        speeds = measure_speeds(shorten_windows(config), variants, vocabulary_size, device)
        variants = [v for v, speed in zip(variants, speeds, strict=True) if speed >= PROMISING * max(speeds)]
    speeds = measure_speeds(config, variants, vocabulary_size, device)
    best = speeds.index(max(speeds))
    return config.with_values(train=variants[best]), speeds[best]


def longest_evaluation(config: Config, characters: int, speed: float) -> float:
    """Return the seconds that an evaluation of so many characters takes at the most, given training's speed."""
    times = SLOWEST_SCORING["bf16" if config.train.precision == "bf16" else "fp32"]
    return characters / (speed * times / (2 if config.model.bidirectional else 1))


def shorten_windows(config: Config) -> Config:
    """Return the configuration with windows that are enough for a rough benchmark."""
    return config.with_values(train={"sequence_length": min(SHORT_WINDOW, config.train.sequence_length)})


def measure_speeds(
    config: Config, variants: Sequence[dict[str, str]], vocabulary_size: int, device: torch.device
) -> list[float]:
    """Time a few steps of each variant in turns, so that other load on the machine slows them alike; hopelessly slow
    ones get a single step. Return the characters per second of each, 0 where memory is too small."""
    configs = [config.with_values(train=variant) for variant in variants]
    seconds = [math.inf] * len(variants)
    left = list(range(len(variants)))
    model: Network | None = None
    began, enough = time.perf_counter(), math.inf if config.train.time is None else MAX_SHARE * config.train.time
    for turn in range(ROUNDS):
        if turn > 1 and time.perf_counter() - began > enough:
            break
        # torch initialises itself in the very first step, which is not counted; on CUDA that is the first step of each
        # variant, since each loads kernels of its own
        for index in left[: None if turn or device.type == "cuda" else 1]:
            try:
                model = model or _zero_model(config, vocabulary_size, device)
                taken = _time_step(model, configs[index], device)
                seconds[index] = min(seconds[index], taken) if turn else math.inf
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                seconds[index] = math.inf
                left.remove(index)
                if model is not None:
                    model.zero_grad()
        if turn:
            left = [index for index in left if seconds[index] <= MAX_SLOWDOWN * min(seconds)]
    return [config.train.step_characters / taken for taken in seconds]


def _zero_model(config: Config, vocabulary_size: int, device: torch.device) -> Network:
    model = make_model(config.model, vocabulary_size).to(device).train()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()  # fresh memory may hold denormals, which are slow
    return model


def _time_step(model: Network, config: Config, device: torch.device) -> float:
    """Run the forward and backward pass of a step; return its seconds."""
    model.use_custom_kernel(config.train.kernel == "custom")
    generator = torch.Generator(device).manual_seed(0)
    batch_size, length = resolved(config.train.batch_size), config.train.sequence_length
    tokens = torch.zeros(batch_size, length, dtype=torch.long, device=device)
    batch = Batch(tokens, tokens, tokens.new_zeros(batch_size, length + LOOKAHEAD // 2))
    weight, steps = config.train.distillation, 1 if device.type == "cpu" else GPU_STEPS
    rounded = config.train.precision == "bf16"
    teacher = None
    if weight != "auto" and weight:
        teacher = losses.Teacher(model, float(weight), model.initial_state(batch_size))
    start = time.perf_counter()
    for _ in range(steps):
        with tf32(device, rounded):
            with torch.autocast(device.type, torch.bfloat16, enabled=rounded):
                found, _ = losses.compute_losses(
                    model, batch, model.initial_state(batch_size), 0.0, 0.0, generator, teacher
                )
            loss = found.total()
            loss.backward()  # type: ignore[no-untyped-call]
        model.zero_grad()
        loss = loss.detach()
        del found  # frees the graph before the next step
    float(loss)  # waits for a GPU, which works in order
    return (time.perf_counter() - start) / steps
