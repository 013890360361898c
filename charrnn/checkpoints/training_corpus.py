"""The corpus that a model was trained on, read again and checked to be the same.
Needs no torch. Messages for the user go to `say`."""

from __future__ import annotations

import stat
from pathlib import Path

from charrnn.checkpoints.model_file import Header
from charrnn.checkpoints.run_dir import Run
from charrnn.checkpoints.safetensors_file import damaged
from charrnn.data import corpus, spool, token_cache
from charrnn.data.corpus import Corpus, Split, SplitText
from charrnn.errors import CharRNNError
from charrnn.messages import Say, silent
from charrnn.paths import NO_SUCH, is_file, status

MAX_BYTES_A_CHARACTER = 16  # of any encoding, marks and carriage returns included
_INSTEAD = "Name a text to score instead: charrnn evaluate TEXT"


def held_out(header: Header, path: Path, *, say: Say = silent, instead: str = _INSTEAD) -> tuple[str, Split]:
    """Return the name and the text of the split to score a model on: test, or validation where test is empty.

    Raises CharRNNError where the text is gone or has changed; its message says what to do `instead`.
    """
    found = find(header, path, instead, say=say)
    return ("test split", found.test) if len(found.test) else ("validation split", found.validation)


def check_held_out(header: Header, path: Path) -> None:
    """Raise CharRNNError where the text that `held_out` reads is gone."""
    _find_texts(header, path, _INSTEAD)


def find(header: Header, path: Path, lost: str, *, say: Say = silent) -> Corpus:
    """Read the corpus of a model, from the token file in its run folder if there is one.

    Raises CharRNNError where the text is gone or has changed; its message ends with `lost`, which says what to do then.
    """
    config, run, texts = header.config, Run(path.parent), _find_texts(header, path, lost)
    assert config.train.seed is not None
    data = config.data.model_copy(update={"texts": texts})
    seed, vocabulary = config.train.seed, header.vocabulary
    cached = token_cache.load(run.tokens, data, seed, header.corpus, vocabulary)
    if cached is not None:
        return cached
    changed = CharRNNError(f"{texts[0]}: the text has changed since {path} was trained on it. {lost}")
    try:
        boundary, longest = vocabulary.boundary, header.corpus.characters
        with spool.read(data, header.corpus.name, say, boundary=boundary, longest=longest) as source:
            if source.digest != header.corpus.sha256:
                raise changed
            built = corpus.build(source, data, seed, header.corpus.name, vocabulary=vocabulary)
            check_lengths(built, header, path)
            return token_cache.in_memory_or_temporary(built)
    except spool.LongerError as error:
        raise changed from error


def check_lengths(text: SplitText, header: Header, path: Path) -> None:
    """Raise CharRNNError where the splits of a text are not as long as the header of a file says."""
    if text.layout.characters != (header.corpus.training, header.corpus.validation, header.corpus.test):
        raise damaged(path, "its header gives its splits other lengths than its text has")


def _find_texts(header: Header, path: Path, lost: str) -> list[str]:
    """List the files that a model names as its text. Raises CharRNNError for one that cannot be it."""
    texts = [current_path(name, Run(path.parent)) for name in header.config.data.texts]
    for name in texts:
        if reason := why_unread(name):
            raise CharRNNError(f"{name}: the text that {path} was trained on {reason}. {lost}")
        size, strict = Path(name).stat().st_size, header.config.data.encoding_errors == "strict"
        if strict and size > MAX_BYTES_A_CHARACTER * header.corpus.characters:
            raise CharRNNError(f"{name}: the text has changed since {path} was trained on it. {lost}")
    return texts


def why_unread(name: str) -> str | None:
    """Say why a file that a model names is not read, or return None: no model makes us read a device or the network."""
    if name.startswith(("//", "\\\\")):
        return "is not on this machine, so it is not read"
    found = status(Path(name))
    if isinstance(found, OSError):
        return "is gone" if found.errno in NO_SUCH else f"cannot be read ({found.strerror})"
    return None if stat.S_ISREG(found.st_mode) else "is no regular file, so it is not read"


def current_path(name: str, run: Run) -> str:
    """Return the path of a text, corrected if it is the run's copy of standard input and the run folder was moved."""
    moved = Path(name).name == run.copy.name and why_unread(name) == "is gone" and is_file(run.copy)
    return str(run.copy.absolute()) if moved else name
