"""charrnn export: a model to give away, as a smaller file or as a page that runs it."""

from __future__ import annotations

from pathlib import Path

import click

from charrnn.cli.console import note
from charrnn.cli.open_model import find_model
from charrnn.cli.options import CONTEXT, Command, check_together, model_option, option
from charrnn.errors import MisuseError

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command(
    cls=Command,
    context_settings=CONTEXT,
    short_help="Make a smaller model file, or a page that runs the model.",
    stray="A model follows -m: charrnn export --html FILE -m {}",
)
@model_option("Input", "Run folder, model file or name. [default: the newest run]")
@option("Output", "--half", "A .safetensors file of half the size, with weights in fp16.", metavar="FILE", type=_FILE)
@option("Output", "--html", "A .html page in which the model writes, in any browser.", metavar="FILE", type=_FILE)
@option("Output", "--network", "Leave the counts of a mixture out of --half.", is_flag=True)
def export(model: str | None, half: Path | None, html: Path | None, network: bool) -> None:
    """Give a model away: as a smaller file, or as a page that runs it.

    \b
    Every command opens the smaller file as it opens the one it came from. Neither names a folder of yours.
    Example:
      charrnn export --half poems.safetensors -m poems
      charrnn export --html poems.html -m poems
    """
    if half is None and html is None:
        raise MisuseError("Name what to write: --half FILE.safetensors, --html FILE.html, or both.")
    check_together(
        {"network": network, "half": half}, (), [("network", "half", "--network is about --half: name that too.")]
    )
    path = find_model(model)
    if half is not None:
        _check_target("--half", half, path, ".safetensors")
    if html is not None:
        _check_target("--html", html, path, ".html", ".htm")
    from charrnn.checkpoints import model_file

    header = model_file.read_header(path)
    if header.config.model.counted:
        raise MisuseError(f"{path} is an n-gram model: it has counts, and no weights to export. Copy the file itself.")
    if half is not None:
        _export_half(path, half, network)
    if html is not None:
        _export_page(path, html)


def _check_target(option: str, target: Path, source: Path, *suffixes: str) -> None:
    """Raise MisuseError for a file that is not of its kind, or would replace a run's model."""
    from charrnn.checkpoints.run_dir import BEST, LAST
    from charrnn.paths import is_file

    if target.suffix not in suffixes:
        raise MisuseError(f"{target}: {option} writes {suffixes[0]}; name such a file.")
    if is_file(target) and target.samefile(source):
        raise MisuseError(f"{target} is the model itself; name another file.")
    if target.name in {BEST, LAST} and is_file(target.with_name("config.yaml")):
        raise MisuseError(f"{target} is the model of a run; name another file.")


def _export_half(source: Path, target: Path, network_only: bool) -> None:
    from charrnn.checkpoints import half

    half.write(source, target, network_only=network_only)
    note(f"Wrote {target} ({_megabytes(target)}; {source} has {_megabytes(source)}).")


def _export_page(source: Path, target: Path) -> None:
    from charrnn.atomic_files import write_atomically
    from charrnn.checkpoints import model_file, run_dir
    from charrnn.cli import model_page
    from charrnn.inspection import page

    header, contents = model_file.read_arrays(source)
    title = run_dir.model_name(source)
    weights = {name: contents.arrays[name] for name in contents.weights}
    described = page.PageModel(title, model_page.architecture(header), header, weights)
    write_atomically(target, page.build(title, described).encode())
    network = " It runs the network of the mixture, without its counts." if header.mixture is not None else ""
    note(f"Wrote {target} ({_megabytes(target)}).{network}")


def _megabytes(path: Path) -> str:
    return f"{path.stat().st_size / 1e6:.1f} MB"
