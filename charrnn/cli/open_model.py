"""Opening the model that an option names, on the device that another names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charrnn.cli.console import bar, note, stdin
from charrnn.errors import CharRNNError, MisuseError
from charrnn.messages import counted

if TYPE_CHECKING:
    from charrnn.checkpoints.model_file import Header
    from charrnn.data.corpus import Split
    from charrnn.data.decoding import Errors
    from charrnn.data.spool import Codes
    from charrnn.data.vocabulary import Vocabulary
    from charrnn.models.interface import LanguageModel


def find_model(name: str | None) -> Path:
    """Find the model file that -m names; of the newest run, if none is named, tell which."""
    from charrnn.checkpoints import run_dir

    path = run_dir.find_model(name)
    if name is None:
        note(f"Model: {path}")
    return path


def open_model(path: Path, device: str, network_only: bool = False) -> tuple[Header, Any]:
    """Open a model on a device: a torch module, of a mixture also its counts unless `network_only`, or of an n-gram
    model its tables."""
    from charrnn.checkpoints import inference, model_file
    from charrnn.device import choose_device, keep_freed_memory
    from charrnn.models.torch_mixture import TorchMixture

    keep_freed_memory()
    chosen = choose_device(device, note)
    header = model_file.read_header(path)
    if header.config.model.counted:
        return header, inference.load(path)[0]
    # one read decides: training may have replaced the file since, and a mixture by a network
    header, model = model_file.read_mixture(path, network_only=network_only)
    if isinstance(model, TorchMixture):
        return header, model._replace(network=model.network.to(chosen))
    return header, model.to(chosen)


def language_model(path: Path, device: str, network_only: bool = False) -> tuple[LanguageModel, Vocabulary]:
    """Open a model to generate or score lines with: on the CPU without torch, which takes seconds to load."""
    if device == "cpu":
        from charrnn.checkpoints import inference

        return inference.load(path, network_only=network_only)
    from charrnn.models import torch_model

    header, model = open_model(path, device, network_only)
    return torch_model.language_model(model), header.vocabulary


def whole_document(
    path: Path, document: bool | None, length: int | None, *, pattern: bool, one_line: bool
) -> tuple[bool, int]:
    """Settle whether a whole document is written, and how many characters at most; see `Documents.settle`.

    Raises MisuseError for a document of a model that knows none, or of several lines where only `one_line` is printed.
    """
    from charrnn.checkpoints import inference

    documents = inference.documents(path)
    if document:
        ways_out = "Train one with -c poems or -s data.documents=..., or let --until TEXT end the text."
        documents.check("-d writes a whole document", ways_out)
        if one_line and documents.boundary != "\n":
            raise MisuseError(
                "--each-line prints one line for each, and documents of this model may have several; add --json."
            )
    return documents.settle(document, length, pattern=pattern)


def adapted_model(
    path: Path,
    device: str,
    name: str,
    encoding: str,
    rate: float | None,
    errors: Errors = "strict",
    *,
    network_only: bool = False,
) -> tuple[LanguageModel, Vocabulary]:
    """Open a model that has learned from a text by dynamic evaluation; the model file stays as it is, and so do the
    counts of a mixture."""
    from charrnn.data import text_files
    from charrnn.evaluation import dynamic, dynamic_tuning
    from charrnn.models import numpy_model, torch_model
    from charrnn.models.architecture import Architecture
    from charrnn.models.ngram_mixture import NgramMixture
    from charrnn.models.torch_mixture import TorchMixture

    header, model = open_model(path, device, network_only)
    check_trainable("--adapt", header)
    boundary = header.vocabulary.boundary
    content = text_files.read([name], encoding, stdin(), errors=errors, boundary=boundary, say=note)
    rule = dynamic_tuning.load_rule(path, mixture=isinstance(model, TorchMixture)) or dynamic.UpdateRule()
    rule = rule if rate is None else dynamic.UpdateRule(rate, rule.decay)
    network: Any = model.network if isinstance(model, TorchMixture) else model
    with bar(len(content)) as shown:
        tokens = header.vocabulary.encode(content)
        network, score = dynamic.adapt(network, header.vocabulary, tokens, rule, shown.update)
    read, bits = counted(len(content), "character"), score.bits_per_character
    of = " of its network" if isinstance(model, TorchMixture) else ""
    note(f"Adapted to {name}: {read}, {bits:.4f} bits/char{of} on the way (rate {rule.rate:g}).")
    adapted: LanguageModel
    if network.embedding.device.type != "cpu":
        adapted = torch_model.language_model(network)
    else:
        architecture = Architecture.of(header.config.model.model_dump())
        arrays = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
        adapted = numpy_model.build(architecture, arrays)
    if isinstance(model, TorchMixture):
        adapted = NgramMixture(adapted, model.ngram, model.weights)
    return adapted, header.vocabulary


def check_trainable(option: str, header: Header) -> None:
    """Raise MisuseError for a model that dynamic evaluation cannot train."""
    model = header.config.model
    if model.cell in model.ONLY_SETTINGS:
        raise MisuseError(f"{option} needs a recurrent network; this model is none: {model.kind}.")


def training_codes(paths: list[Path], *, needed: bool) -> Codes | None:
    """Read the code points of the training text of all models; where one is gone and not needed, say so and return
    None."""
    from charrnn.checkpoints import shared_corpus

    advice = "Put it back, or leave out --no-copy." if needed else "So nothing can be said of what was copied."
    try:
        return shared_corpus.training_codes(paths, advice, say=note)
    except CharRNNError as error:
        if needed:
            raise
        note(str(error))
        return None


def held_out(header: Header, path: Path, mixtures: Mapping[str, Header]) -> tuple[str, Split]:
    """Return the held-out split of a model's corpus, and say that it is scored; and of `mixtures`, by name, where their
    weights were chosen on it."""
    from charrnn.checkpoints import training_corpus

    kind, split = training_corpus.held_out(header, path, say=note)
    note(f"Scoring the {kind} of {header.corpus.name} ({counted(len(split), 'character')}).")
    name = kind.removesuffix(" split")
    repeated = (header.corpus.repeated or {}).get(name)
    if repeated is not None and repeated.repeated:
        note(f"{repeated.counted(name, header.config.data.documents)} also stand in the training split.")
    for label, mixture in mixtures.items() if name == "validation" else ():
        if mixture.mixture is not None:
            bits = mixture.latest.mixture_bits if mixture.latest else None
            fair = f"; where each half had weights chosen on the other, it needed {bits:.4f} bits/char" if bits else ""
            note(f"{label}: the weights of its mixture were chosen on this very split{fair}.")
    return f"{header.corpus.name} ({kind})", split
