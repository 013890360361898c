"""charrnn info: what a model file is."""

from __future__ import annotations

import click

from charrnn.cli.console import CONTEXT


@click.command(context_settings=CONTEXT)
@click.option("-m", "--model", metavar="MODEL", help="Run folder, model file or name [the newest run].")
def info(model: str | None) -> None:
    """Say what a model file is: architecture, vocabulary, corpus, scores, loss curve.

    \b
    Example:
      charrnn info
      charrnn info -m checkpoints/poems
    """
    from charrnn.checkpoints import model_file, run_dir
    from charrnn.cli import model_page, tables

    if model is None and len(runs := run_dir.find_runs()) > 0:
        click.echo("runs under ./checkpoints, newest first:")
        width = max(tables.columns(run.name) for run in runs)
        for run in runs:
            click.echo(f"  {run.name}{' ' * (width - tables.columns(run.name))}  {model_page.summary(run)}")
        click.echo()
    path = run_dir.find_model(model)
    click.echo(model_page.page(path, model_file.read_header(path)))
