"""Pictures by matplotlib: what all have in common, and the curves of a training, loss, learning rate and gradient norm
over steps. Reads metrics.jsonl of a run folder, or where that is not there the evaluations in the model file."""

from __future__ import annotations

import contextlib
import json
import math
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from charrnn.checkpoints import model_file
from charrnn.checkpoints.run_dir import Run
from charrnn.errors import CharRNNError, MisuseError

_SMOOTHING = 0.6  # of the training curve, which is drawn as it is behind it
_PANELS = {"bits/char": 3.0, "learning rate": 1.0, "gradient norm": 1.0}  # and their heights
_FONTS = [
    "DejaVu Sans",
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",  # the name under which matplotlib finds the same file
    "PingFang SC",
    "Microsoft YaHei",
    "WenQuanYi Zen Hei",
]  # for names in Chinese


def check_file(file: Path) -> None:
    """Raise MisuseError for a file that is no picture."""
    if file.suffix not in {".svg", ".png", ".pdf"}:
        raise MisuseError(f"{file}: --plot writes .svg, .png or .pdf; name such a file.")


def check_library() -> None:
    """Raise CharRNNError without matplotlib."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise CharRNNError("--plot needs matplotlib. Install it with: pip install 'charrnn[plots]'") from error


@contextlib.contextmanager
def picture(file: Path, rows: int, columns: int = 1, **settings: Any) -> Iterator[tuple[Any, Any]]:
    """Make a figure with panels (rows, columns), to be drawn into and then saved as an .svg, .png or .pdf file.

    Raises CharRNNError without matplotlib, or where the file cannot be written.
    """
    check_library()
    import matplotlib

    matplotlib.use("Agg")
    import logging

    from matplotlib import pyplot

    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # says of each font that it has not found
    style: dict[Any, Any] = {"font.family": _FONTS, "axes.spines.top": False, "axes.spines.right": False}
    style |= {"axes.unicode_minus": False, "svg.fonttype": "path", "svg.hashsalt": "charrnn"}
    with matplotlib.rc_context(style), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # no font here has it
        figure, panels = pyplot.subplots(rows, columns, squeeze=False, layout="constrained", **settings)
        try:
            yield figure, panels
            figure.savefig(file, dpi=150, metadata={"Date": None} if file.suffix == ".svg" else None)
        except OSError as error:
            raise CharRNNError(f"{file}: cannot be written ({error.strerror}). Name another file.") from error
        finally:
            pyplot.close(figure)


def plain_numbers(axis: Any) -> None:
    """Write the numbers of a logarithmic axis as 0.01, not as powers."""
    from matplotlib import ticker

    for which in ("major", "minor"):
        getattr(axis, f"set_{which}_formatter")(ticker.StrMethodFormatter("{x:g}"))


def draw(models: Mapping[str, Path], file: Path) -> None:
    """Draw the curves of model files by name, one over the other; errors as in `picture`."""
    sizes: dict[str, Any] = {"figsize": (7.2, 5.6), "height_ratios": list(_PANELS.values())}
    with picture(file, len(_PANELS), sharex=True, **sizes) as (_, grid):
        panels = grid[:, 0]
        for place, (name, path) in enumerate(models.items()):
            _curves(panels, name if len(models) > 1 else "", read(path), f"C{place}")
        for axes, label in zip(panels, _PANELS, strict=True):
            axes.set_ylabel(label)
            axes.grid(alpha=0.25)
        panels[0].legend(frameon=False)
        panels[0].set_title(" · ".join(models) if len(models) == 1 else "", loc="left", fontsize=10)
        panels[-1].set_xlabel("step")
        panels[-1].set_yscale("log")
        plain_numbers(panels[-1].yaxis)


def read(path: Path) -> list[dict[str, Any]]:
    """Read the lines of metrics.jsonl beside a model file; without one, make them of the file's own history."""
    metrics = Run(path.parent).metrics
    lines = []
    if metrics.exists():
        for line in metrics.read_text(encoding="utf-8").splitlines():
            try:
                lines.append(json.loads(line))
            except ValueError:  # a line that was being written
                break
    if lines:
        return lines
    return [
        {
            "step": record.step,
            "training_bits_per_character": record.training_bits_per_character,
            "validation": {"bits_per_character": record.bits_per_character},
        }
        for record in model_file.read_header(path).history
    ]


def _curves(panels: Any, name: str, lines: list[dict[str, Any]], colour: str) -> None:
    """Draw one model's curves."""
    steps = [line for line in lines if "gradient_norm" in line]
    evaluations = [line for line in lines if "validation" in line]
    at = [line.get("step", line.get("order")) for line in evaluations]
    suffix = f" {name}" if name else ""
    if steps:
        x = [line["step"] for line in steps]
        bits = [line["bits_per_character"] for line in steps]
        panels[0].plot(x, bits, color=colour, alpha=0.2, linewidth=0.8)
        panels[0].plot(x, _smoothed(bits), color=colour, alpha=0.7, linewidth=1.2, label=f"training{suffix}")
        panels[1].plot(x, [line["learning_rate"] for line in steps], color=colour, linewidth=1.2)
        panels[2].plot(x, [line["gradient_norm"] for line in steps], color=colour, linewidth=0.8)
    elif any(line.get("training_bits_per_character") is not None for line in evaluations):
        training = [line.get("training_bits_per_character") or math.nan for line in evaluations]
        panels[0].plot(at, training, color=colour, alpha=0.7, linestyle="--", label=f"training{suffix}")
    validation = [line["validation"]["bits_per_character"] for line in evaluations]
    panels[0].plot(at, validation, color=colour, marker="o", markersize=3.5, linewidth=1.6, label=f"validation{suffix}")


def _smoothed(values: list[float]) -> list[float]:
    """Average exponentially, corrected for the start as Adam's moments are."""
    mean, weight, found = 0.0, 0.0, []
    for value in values:
        mean, weight = _SMOOTHING * mean + (1 - _SMOOTHING) * value, _SMOOTHING * weight + 1 - _SMOOTHING
        found.append(mean / weight)
    return found
