"""The text that a model learnt from, found again where it lies now, and known to be the same.
Needs no torch. What it has to say it hands to `say`."""

from __future__ import annotations

from pathlib import Path

from charrnn.callbacks import Say, silent
from charrnn.checkpoints.model_file import Header
from charrnn.checkpoints.run_dir import Run
from charrnn.data import corpus, token_cache
from charrnn.data.corpus import Corpus, Split
from charrnn.data.spool import read
from charrnn.errors import CharRNNError


def held_out(header: Header, path: Path, *, say: Say = silent) -> tuple[str, Split]:
    """Read the held-out part of a model's own corpus: the test part, else validation; gives its name and itself.

    Raises CharRNNError where the text is gone or has changed.
    """
    whole = find(header, path, "Its held-out part is unknown; name a text: charrnn evaluate TEXT", say=say)
    return ("test part", whole.test) if len(whole.test) else ("validation part", whole.validation)


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
    whole = token_cache.find(run.tokens, data, config.train.seed, header.corpus, header.vocabulary)
    if whole is None:
        with read(texts, data.encoding, header.corpus.name, say) as source:
            if source.digest != header.corpus.sha256:
                raise CharRNNError(f"{texts[0]}: the text has changed since {path} learnt from it. {lost}")
            own = header.vocabulary
            whole = token_cache.hold(corpus.build(source, data, config.train.seed, header.corpus.name, vocabulary=own))
    return whole


def where_now(name: str, run: Run) -> str:
    """Find a run's own copy of standard input where the run folder is now."""
    own = run.copy
    return str(own.absolute()) if Path(name).name == own.name and not Path(name).exists() and own.exists() else name
