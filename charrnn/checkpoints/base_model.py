"""The model that a fine-tuned run starts from, as train.init_from names it: found again, and recognised as the same.
Needs no torch."""

from __future__ import annotations

import os
import re
from pathlib import Path

from charrnn.checkpoints import run_dir, safetensors_file
from charrnn.config.schema import Config
from charrnn.errors import CharRNNError
from charrnn.messages import Say
from charrnn.paths import NO_SUCH, status

_MARK, _DIGITS = "#sha256=", 16
_REFERENCE = re.compile(rf"(?P<name>.+?)({_MARK}(?P<digest>[0-9a-f]{{{_DIGITS}}}))?", re.DOTALL)


def reference(path: Path) -> str:
    """Return what a run's settings say of a model file: its absolute path, and the beginning of its SHA-256."""
    whole = str(path.absolute())
    try:
        whole.encode()
    except UnicodeEncodeError as error:
        raise CharRNNError(f"{os.fsencode(whole)!r}: the file name is not UTF-8. Rename it.") from error
    return whole + _MARK + safetensors_file.digest(path)[:_DIGITS]


def name(config: Config) -> str | None:
    """Return the path or name of the model that settings start from, without its digest."""
    return None if config.train.init_from is None else _parts(config.train.init_from)[0]


def find(config: Config, warn: Say) -> Path | None:
    """Return the file of the model that settings start from, if they name one; warn if it has changed since.

    Raises CharRNNError where it is gone.
    """
    if config.train.init_from is None:
        return None
    called, digest = _parts(config.train.init_from)
    try:
        path = run_dir.find_model(called)
    except CharRNNError as error:
        distils = config.train.distillation not in ("auto", 0.0)
        scratch = "-s train.init_from=null" + (" -s train.distillation=0" if distils else "")
        found = status(Path(called))
        refused = isinstance(found, OSError) and found.errno not in NO_SUCH
        reason = f"cannot be read ({found})" if refused else "is not there"
        raise CharRNNError(
            f"{called}: the model to start from (train.init_from) {reason}. Name where it is now, or another, with"
            f" --init-from; or train from scratch with {scratch}"
        ) from error
    if digest is not None and not safetensors_file.digest(path).startswith(digest):
        warn(f"{path} has changed since these settings were written (train.init_from); starting from it as it is now.")
    return path


def _parts(reference: str) -> tuple[str, str | None]:
    found = _REFERENCE.fullmatch(reference)
    assert found is not None
    return found["name"], found["digest"]
