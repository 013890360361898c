"""The text that a model learnt from, found again where it lies now, and known to be the same.
Needs no torch. What it has to say it hands to `say`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

from charrnn import corpus, text, tokenfile
from charrnn.checkpoint import Run
from charrnn.corpus import Corpus
from charrnn.errors import CharRNNError
from charrnn.modelfile import Header
from charrnn.source import Source

_LARGE = 100_000_000  # bytes whose reading takes so long that it is announced

Say = Callable[[str], object]


def silent(_: str) -> None:
    """Tell no one."""


def find(header: Header, path: Path, lost: str, *, say: Say = silent) -> Corpus:
    """Read the corpus of a model, from the tokens beside it where they are kept.

    Raises CharRNNError where the text is gone or has changed; `lost` then ends the sentence: what to do instead.
    """
    config, run = header.config, Run(path.parent)
    texts = [where_now(name, run) for name in config.data.texts]
    missing = [name for name in texts if not Path(name).exists()]
    if missing:
        raise CharRNNError(f"{missing[0]}: the text that {path} learnt from is gone. {lost}")
    assert config.train.seed is not None
    data = config.data.model_copy(update={"texts": texts})
    whole = tokenfile.find(run.tokens, data, config.train.seed, header.corpus, header.vocabulary)
    if whole is None:
        with read(texts, data.encoding, header.corpus.name, say) as source:
            if source.digest != header.corpus.sha256:
                raise CharRNNError(f"{texts[0]}: the text has changed since {path} learnt from it. {lost}")
            own = header.vocabulary
            whole = tokenfile.hold(corpus.build(source, data, config.train.seed, header.corpus.name, vocabulary=own))
    return whole


def read(
    names: Sequence[str], encoding: str, shown: str, say: Say, stdin: BinaryIO | None = None, folder: Path | None = None
) -> Source:
    """Read a text; of a large one say so first."""
    stamps = [text.stamp(name) for name in text.files(names)]
    size = sum(stamp[1] for stamp in stamps if stamp is not None)
    if size >= _LARGE:
        say(f"Reading {shown} ({size / 1e6:,.0f} MB) ...")
    return Source.read(names, encoding, stdin, folder)


def where_now(name: str, run: Run) -> str:
    """Find a run's own copy of standard input where the run folder is now."""
    own = run.copy
    return str(own.absolute()) if Path(name).name == own.name and not Path(name).exists() and own.exists() else name
