"""The corpus that a model was trained on, read again and checked to be the same.
Needs no torch. Messages for the user go to `say`."""

from __future__ import annotations

from pathlib import Path

from charrnn.checkpoints.model_file import Header
from charrnn.checkpoints.run_dir import Run
from charrnn.data import corpus, token_cache
from charrnn.data.corpus import Corpus, Split
from charrnn.data.spool import read
from charrnn.errors import CharRNNError
from charrnn.messages import Say, silent

_INSTEAD = "Name a text to score instead: charrnn evaluate TEXT"


def held_out(header: Header, path: Path, *, say: Say = silent) -> tuple[str, Split]:
    """Return the name and the text of the split to score a model on: test, or validation where test is empty.

    Raises CharRNNError where the text is gone or has changed.
    """
    found = find(header, path, _INSTEAD, say=say)
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
    with read(texts, data.encoding, header.corpus.name, say, errors=data.encoding_errors) as source:
        if source.digest != header.corpus.sha256:
            raise CharRNNError(f"{texts[0]}: the text has changed since {path} was trained on it. {lost}")
        built = corpus.build(source, data, seed, header.corpus.name, vocabulary=vocabulary)
        return token_cache.in_memory_or_temporary(built)


def _find_texts(header: Header, path: Path, lost: str) -> list[str]:
    texts = [current_path(name, Run(path.parent)) for name in header.config.data.texts]
    missing = [name for name in texts if not Path(name).exists()]
    if missing:
        raise CharRNNError(f"{missing[0]}: the text that {path} was trained on is gone. {lost}")
    return texts


def current_path(name: str, run: Run) -> str:
    """Return the path of a text, corrected if it is the run's copy of standard input and the run folder was moved."""
    moved = Path(name).name == run.copy.name and not Path(name).exists() and run.copy.exists()
    return str(run.copy.absolute()) if moved else name
