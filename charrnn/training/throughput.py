"""Trying steps of the very training that is planned, in each way that this device has, to take the fastest."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import torch

from charrnn.config.schema import Config
from charrnn.data.loader import Batch
from charrnn.device import Bf16, is_out_of_memory, tf32
from charrnn.models import losses
from charrnn.models.bidirectional import LOOKAHEAD
from charrnn.models.factory import Network, make_model

_HOPELESS = 3  # times slower than another way so far
_PROMISING = 0.6  # of the best way's rate in short windows: the choice among such ways falls in whole ones
_TRIED_STEPS = 32  # of a short window
_AHEAD = 4  # windows that a GPU is given at once: it need not wait for the next, as it need not in training
SLOW_BF16 = "bf16 is slow on {device}: -s train.precision=fp32 takes less time, and loses nothing."


def _ways(config: Config, device: torch.device, bf16: Bf16, notes: list[str]) -> list[dict[str, str]]:
    """List the ways in which a training may run here: number formats of the products, and who does the loops. Notes
    what the user would not expect of the ways that were named."""
    train, model = config.train, config.model
    if model.cell == "hmm":
        return [{"precision": "fp32", "kernel": "torch"}]
    precisions = [train.precision] if train.precision != "auto" else ["fp32", "bf16"] if bf16.fast else ["fp32"]
    ways = []
    for precision in precisions:
        without = precision == "bf16" and model.cell == "lstm" and device.type == "cpu" and not bf16.lstm
        if model.activation == "leaky_relu" or model.leak is not None or model.time_skip is not None or without:
            kernels = ["custom"]  # torch has none
        elif train.kernel != "auto":
            kernels = [str(train.kernel)]
        else:
            kernels = ["torch", "custom"] if device.type == "cpu" else ["torch"]  # a GPU starves on many small calls
        ways += [{"precision": precision, "kernel": kernel} for kernel in kernels]
    if train.precision == "bf16" and not bf16.fast:
        notes.append(SLOW_BF16.format(device=device))
    return ways


def _fastest(
    config: Config, ways: Sequence[dict[str, str]], vocabulary_size: int, device: torch.device
) -> tuple[Config, float]:
    """Choose among ways to run; gives characters per second as tried."""
    # on a GPU, launching a window of few steps takes as long as running it, whatever the way
    if len(ways) > 1 and device.type == "cpu":
        rates = _rates(_shortened(config), ways, vocabulary_size, device)
        ways = [way for way, rate in zip(ways, rates, strict=True) if rate >= _PROMISING * max(rates)]
    rates = _rates(config, ways, vocabulary_size, device)
    best = rates.index(max(rates))
    return config.with_values(train=ways[best]), rates[best]


def _shortened(config: Config) -> Config:
    return config.with_values(train={"sequence_length": min(_TRIED_STEPS, config.train.sequence_length)})


def _rates(config: Config, ways: Sequence[dict[str, str]], vocabulary_size: int, device: torch.device) -> list[float]:
    """Try a few steps in each way, in turns, or a single one where that is far slower than another's; gives characters
    per second of each, 0 where the memory is too small."""
    sized = [config.with_values(train=way) for way in ways]
    seconds = [math.inf] * len(ways)
    left = list(range(len(ways)))
    model: Network | None = None
    for turn in range(4):
        # the very first step starts torch up and would be held against its way: one is taken that does not count; on
        # CUDA one of each way, since each has kernels of its own to load
        for place in left[: None if turn or device.type == "cuda" else 1]:
            try:
                model = model or _blank(config, vocabulary_size, device)
                taken = _tried(model, sized[place], device)
                seconds[place] = min(seconds[place], taken) if turn else math.inf
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                seconds[place] = math.inf
                left.remove(place)
                if model is not None:
                    model.zero_grad()
        if turn:
            left = [place for place in left if seconds[place] <= _HOPELESS * min(seconds)]
    characters = int(config.train.batch_size) * config.train.sequence_length
    return [characters / taken for taken in seconds]


def _blank(config: Config, vocabulary_size: int, device: torch.device) -> Network:
    model = make_model(config.model, vocabulary_size).to(device).train()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()  # what lies in fresh memory may be a denormal, and slow
    return model


def _tried(model: Network, config: Config, device: torch.device) -> float:
    """Take a step; gives its seconds."""
    model.use_custom_kernel(config.train.kernel == "custom")
    generator = torch.Generator(device).manual_seed(0)
    batches, length = int(config.train.batch_size), config.train.sequence_length
    tokens = torch.zeros(batches, length, dtype=torch.long, device=device)
    window = Batch(tokens, tokens, tokens.new_zeros(batches, length + LOOKAHEAD // 2))
    share, ahead = config.train.distillation, 1 if device.type == "cpu" else _AHEAD
    rounded = config.train.precision == "bf16"
    teacher = losses.Teacher(model, float(share), model.initial_state(batches)) if share != "auto" and share else None
    start = time.perf_counter()
    for _ in range(ahead):
        with tf32(device, rounded):
            with torch.autocast(device.type, torch.bfloat16, enabled=rounded):
                costs, _ = losses.compute_losses(
                    model, window, model.initial_state(batches), 0.0, 0.0, generator, teacher
                )
            loss = costs.total()
            loss.backward()  # type: ignore[no-untyped-call]
        model.zero_grad()
        loss = loss.detach()
        del costs  # and with it what the way back needed: the next round shall find the memory free
    float(loss)  # waits for a GPU, which does one thing after the other
    return (time.perf_counter() - start) / ahead
