"""Opening the model that an option names, on the device that another names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from charrnn.cli.console import _bar, _note, _stdin
from charrnn.errors import MisuseError

if TYPE_CHECKING:
    from charrnn.checkpoints.model_file import Header
    from charrnn.data.vocabulary import Vocabulary
    from charrnn.models.interface import LanguageModel


def _check_rate(option: str, rate: float | None) -> None:
    if rate is not None and not 0 <= rate < float("inf"):
        raise MisuseError(f"{option} is {rate:g}; it must be 0 or more.")


def _opened(path: Path, device: str) -> tuple[Header, Any]:
    from charrnn.checkpoints import inference, model_file
    from charrnn.device import choose_device, keep_freed_memory

    keep_freed_memory()
    chosen = choose_device(device, _note)
    header = model_file.read_header(path)
    if header.config.model.counted:
        return header, inference.load(path)[0]
    header, model = model_file.read_model(path)
    return header, model.to(chosen)


def _found(name: str | None) -> Path:
    from charrnn.checkpoints import run_dir

    path = run_dir.find_model(name)
    if name is None:
        _note(f"Model: {path}")
    return path


def _reader(path: Path, device: str) -> tuple[LanguageModel, Vocabulary]:
    """Open a model to read with: on the CPU without torch, which takes seconds to load."""
    if device == "cpu":
        from charrnn.checkpoints import inference

        return inference.load(path)
    from charrnn.models.torch_model import reader

    header, model = _opened(path, device)
    return reader(model), header.vocabulary


def _check_follows(option: str, header: Header) -> None:
    model = header.config.model
    if model.cell in model.OWN:
        raise MisuseError(f"{option} lets a network's weights follow a text; this model is no network: {model.kind}.")


def _adapted(path: Path, device: str, name: str, encoding: str, rate: float | None) -> tuple[LanguageModel, Vocabulary]:
    """Open a model, and let it read a text and learn from it before anyone else reads with it."""
    from charrnn.data import text_files
    from charrnn.evaluation import dynamic, dynamic_tuning
    from charrnn.models.architecture import Architecture
    from charrnn.models.numpy_model import make
    from charrnn.models.torch_model import reader

    header, model = _opened(path, device)
    _check_follows("--adapt", header)
    content = text_files.read([name], encoding, _stdin())
    rule = dynamic_tuning.kept(path) or dynamic.UpdateRule()
    rule = rule if rate is None else dynamic.UpdateRule(rate, rule.decay)
    with _bar(len(content)) as bar:
        model, score = dynamic.adapt(model, header.vocabulary, header.vocabulary.encode(content), rule, bar.update)
    bits = score.bits_per_character
    _note(f"Adapted to {name}: {len(content):,} characters, {bits:.4f} bits/char on the way (rate {rule.rate:g}).")
    if model.embedding.device.type != "cpu":
        return reader(model), header.vocabulary
    architecture = Architecture.of(header.config.model.model_dump())
    arrays = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    return make(architecture, arrays), header.vocabulary
