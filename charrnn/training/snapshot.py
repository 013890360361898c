"""What a checkpoint saves of a training beside its configuration: where it stands, and each tensor that it changes.
The names of the tensors and of the position's fields are the file format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Generator, Tensor
from torch.optim import Optimizer

from charrnn.checkpoints import safetensors_file
from charrnn.checkpoints.model_file import Header
from charrnn.checkpoints.safetensors_file import EXTRA
from charrnn.evaluation import scoring
from charrnn.models.factory import Network
from charrnn.models.layers import State

_MOMENTS = EXTRA + "optimizer/"
GENERATOR = EXTRA + "generator"
# what each optimizer keeps for each weight, by torch's names
MOMENTS = {
    "adamw": {"step", "exp_avg", "exp_avg_sq"},
    "rmsprop": {"step", "square_avg"},
    "sgd": {"momentum_buffer"},
}


@dataclass
class Position:
    """Where a training stands: all that is neither a tensor nor in the configuration."""

    step: int = 0  # optimizer steps done
    epoch: int = 0
    window: int = 0  # of this epoch, the next to read
    seconds: float = 0.0
    startup: float = 0.0  # of these seconds, those before the first step
    rate_scale: float = 1.0  # halved by each rollback
    rollbacks: int = 0  # close together: see training_step
    rolled_back: int = 0  # step that the last rollback returned to
    evaluated: int = 0  # step of the last evaluation
    best_bits: float | None = None
    stale: int = 0  # evaluations since the best
    patience_from: int = 0  # patience compares evaluations after this step
    warmup: int = scoring.WARMUP  # characters, for the next evaluation to start with
    backward_warmup: int = scoring.WARMUP
    evaluation_seconds: float = 0.0
    nats: float = 0.0  # training loss since the last evaluation, summed
    characters: int = 0
    lengths: dict[str, int] = field(default_factory=dict)
    device: str = "cpu"


class Snapshot(NamedTuple):
    """A state to roll back to."""

    tensors: dict[str, Tensor]
    position: Position


def read_position(header: Header) -> Position:
    """Return the position in the header of a last.safetensors, which was checked as it was read."""
    assert header.position is not None
    known = {one.name for one in fields(Position)}
    return Position(**{name: value for name, value in header.position.items() if name in known})


def collect_tensors(
    model: Network, optimizer: Optimizer, generator: Generator, states: Mapping[str, State]
) -> dict[str, Tensor]:
    """Return weights, moments, the generator's state and the carried states, each by its name in a checkpoint; the next
    step changes weights and moments in place."""
    tensors = dict(model.state_dict())
    for index, moments in optimizer.state_dict()["state"].items():
        for key, value in moments.items():
            if value is not None:
                tensors[f"{_MOMENTS}{index}/{key}"] = torch.as_tensor(value)
    tensors[GENERATOR] = generator.get_state()
    for owner, state in states.items():
        for name, tensor in zip(State._fields, state, strict=True):
            if tensor is not None:
                tensors[f"{EXTRA}{owner}/{name}"] = tensor
    return {name: tensor.detach() for name, tensor in tensors.items()}


def copy_tensors(tensors: Mapping[str, Tensor], memory: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy tensors, into the memory of an earlier copy where it has them."""
    return {name: memory[name].copy_(tensor) if name in memory else tensor.clone() for name, tensor in tensors.items()}


def check_tensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    model: Network,
    optimizer: str,
    *,
    same_device: bool,
) -> None:
    """Raise CharRNNError where tensors of a file are not those of a training, `expected`, by an optimizer, on the same
    type of device or another. It may have made no moments yet: those that are there must be complete and fit."""
    expected = {name: tensor for name, tensor in expected.items() if not name.startswith(_MOMENTS)}
    sizes = [weights.shape for weights in model.parameters()]
    found: dict[int, set[str]] = {}  # the moments of each weight
    for name, tensor in tensors.items():
        if name in expected:
            fits = expected[name].shape == tensor.shape
            if name == GENERATOR:
                fits = _fits_generator(tensor, expected[name], same_device)
        else:
            index, _, key = name.removeprefix(_MOMENTS).partition("/")
            fits = name.startswith(_MOMENTS) and index.isascii() and index.isdigit() and int(index) < len(sizes)
            if fits:
                found.setdefault(int(index), set()).add(key)
                fits = tensor.shape == (torch.Size([]) if key == "step" else sizes[int(index)])
        if not fits:
            raise safetensors_file.damaged(path, f"{name} does not fit the model")
    if expected.keys() - tensors.keys() or any(keys != MOMENTS[optimizer] for keys in found.values()):
        raise safetensors_file.damaged(path, "its training state is incomplete")


def _fits_generator(state: Tensor, expected: Tensor, same_device: bool) -> bool:
    """Say whether bytes are the state of a generator; of one of another type of device they are not used."""
    if not same_device:
        return state.dtype == torch.uint8
    if state.dtype != torch.uint8 or state.shape != expected.shape:
        return False
    generator = Generator()
    if state.shape != generator.get_state().shape:  # not that of the CPU, which alone checks its bytes
        return True
    try:
        generator.set_state(state)
    except RuntimeError:
        return False
    return True


def load_tensors(tensors: Mapping[str, Tensor], model: Network, optimizer: Optimizer) -> None:
    """Load weights and moments."""
    model.load_state_dict({name: tensor for name, tensor in tensors.items() if not name.startswith(EXTRA)})
    optimizer.state.clear()  # frees the memory that the moments below take
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith(_MOMENTS):
            index, key = name.removeprefix(_MOMENTS).split("/")
            moments.setdefault(int(index), {})[key] = tensor.clone()
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})


def carried_state(tensors: Mapping[str, Tensor], owner: str, device: torch.device) -> State:
    """Return a carried state from all tensors."""
    found = (tensors.get(f"{EXTRA}{owner}/{name}") for name in State._fields)
    # cloned: memory of a file is aligned anyhow, and rounding in matrix products depends on alignment
    return State(*(None if tensor is None else tensor.to(device).clone() for tensor in found))  # type: ignore[arg-type]
