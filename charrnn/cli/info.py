"""charrnn info: what a model file is."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from charrnn.cli.console import columns, note, padded, put_line, put_page, width
from charrnn.cli.options import CONTEXT, Command, model_option, option
from charrnn.errors import MisuseError
from charrnn.showable import shown
from charrnn.strict_json import to_json


@click.command(
    cls=Command,
    context_settings=CONTEXT,
    short_help="List runs; describe models; draw loss curves.",
    stray="A model follows -m: charrnn info -m {}",
)
@model_option("Input", "Run folder, model file or name; repeat it to compare. [default: the newest run]", multiple=True)
@option("Output", "--json as_json", "Print one JSON object for each model.", is_flag=True)
@option(
    "Output",
    "--plot",
    "Draw loss, learning rate and gradient norm into a .svg, .png or .pdf file.",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
)
def info(models: tuple[str, ...], as_json: bool, plot: Path | None) -> None:
    """List runs; show a model's architecture, data, scores and loss curve.

    \b
    Example:
      charrnn info
      charrnn info -m checkpoints/poems
      charrnn info -m small -m large --plot curves.svg
    """
    if plot is not None and as_json:
        raise MisuseError("--json and --plot are two outputs; name one.")
    if plot is not None:
        from charrnn.cli.plots import check_file

        check_file(plot)
    from charrnn.checkpoints import model_file, run_dir
    from charrnn.cli import model_page

    if not models and not as_json and plot is None and (runs := run_dir.find_runs()):
        put_page("runs under ./checkpoints, newest first:")
        names = [shown(run.name) for run in runs]
        size = max(columns(name) for name in names)
        for run, name in zip(runs, names, strict=True):
            put_page(f"  {padded(name, size)}  {model_page.summary(run)}")
        put_page("")
    paths = [run_dir.find_model(name) for name in models or (None,)]
    headers = [model_file.read_header(path) for path in paths]
    if plot is not None:
        from charrnn.cli import plots

        plots.draw({str(name): path for name, path in zip(models or (paths[0].parent.name,), paths, strict=True)}, plot)
        note(f"Drew {plot}.")
        return
    for place, (path, header) in enumerate(zip(paths, headers, strict=True)):
        if as_json:
            put_line(to_json(model_page.fields(path, header)))
        else:
            put_page(("\n" if place else "") + model_page.page(path, header, width(sys.stdout)))
