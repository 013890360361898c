"""Several models of -m opened as one: --ensemble and its --weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charrnn.cli.console import note
from charrnn.cli.options import option
from charrnn.errors import MisuseError

if TYPE_CHECKING:
    from charrnn.data.vocabulary import Vocabulary
    from charrnn.models.interface import LanguageModel
    from charrnn.models.mixture import Mixture

    Load = Callable[[Path], tuple[LanguageModel, Vocabulary]]

RULES = (("weights", "ensemble", "--weights are those of --ensemble; add it, or leave them out."),)


def ensemble_options(group: str) -> Callable[[Any], Any]:
    """Declare --ensemble and --weights."""

    def declare(command: Any) -> Any:
        help = "Theirs, in the order of -m. [default: chosen on validation, else equal]"
        command = option(group, "--weights", help, metavar="W,W")(command)
        return option(group, "--ensemble", "Mix the models of several -m into one.", is_flag=True)(command)

    return declare


def check(models: Sequence[str], weights: str | None) -> None:
    """Raise MisuseError for fewer than two models, or weights that are not theirs."""
    if len(models) < 2:
        raise MisuseError("--ensemble mixes several models; name each with -m.")
    if weights is not None:
        from charrnn.evaluation import ensemble

        ensemble.parse_weights(weights, len(models))


def open_mixture(
    names: Sequence[str], paths: Sequence[Path], load: Load, weights: str | None, *, tune: bool = True
) -> tuple[Mixture, Vocabulary]:
    """Open several models as one, and say what it weighs them with; `tune` says whether the validation split may choose
    that."""
    from charrnn.evaluation import ensemble

    opened = [load(path) for path in paths]
    ensemble.check_alike(names, [vocabulary for _, vocabulary in opened])
    if weights is not None:
        return ensemble.mixture(opened, ensemble.parse_weights(weights, len(names)))
    found, why = [1 / len(names)] * len(names), "what is scored is the validation split itself"
    if tune:
        # the training text is found through the settings of a run, which pydantic validates
        from charrnn.checkpoints import shared_corpus

        split, why = shared_corpus.validation(paths, say=note)
        found = found if split is None else ensemble.choose_weights(opened, split.tokens)
        why = why or "chosen on the validation split"
    shown = " + ".join(f"{weight:.3f} {name}" for weight, name in zip(found, names, strict=True))
    equal = "" if why.startswith("chosen") else "equal, since "
    note(f"Ensemble: {shown} ({equal}{why}; --weights sets others).")
    return ensemble.mixture(opened, found)
