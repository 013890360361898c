"""Scores of `charrnn train TEXT` without options, compared with presets of fixed sizes.

    python benchmarks/presets.py TEXT... [--sizes 10000,300000,3000000] [--presets tiny,small,base,large] [--time 10m]
        [--rest 50000] [--seed 1] [--to FOLDER] [-s SECTION.KEY=VALUE]

Truncates each text, trains on it without options and then with each preset, and scores the `--rest` characters after
the cut, which no run has seen (where the text ends at the cut, the validation split: small and noisy). Prints model
sizes, characters read, floating-point operations and scores. The last line for each size compares with the best
preset: below zero, no options are better. `--time` gives all runs the same time, instead of what each plans for itself.
Finished runs found in the folder are not trained again.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import click

from charrnn.checkpoints import model_file, run_dir
from charrnn.data import text_files


def charrnn(*arguments: str) -> str:
    """Run a command in a process of its own; return its output."""
    command = [sys.executable, "-m", "charrnn", *arguments]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    if process.returncode != 0:
        raise click.ClickException(f"{' '.join(command)} failed:\n{process.stderr}")
    return process.stdout


def scored(run: Path, rest: Path) -> tuple[model_file.Header, float]:
    """Return a run's best model, and its bits/char on the text after the cut."""
    header = model_file.read_header(run_dir.find_model(str(run)))
    if rest.stat().st_size > 0:
        return header, json.loads(charrnn("evaluate", "-m", str(run), str(rest), "--json"))["bits_per_character"]
    assert header.latest is not None
    return header, header.latest.bits_per_character


@click.command()
@click.argument("texts", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--sizes", default="10000,300000,3000000")
@click.option("--presets", default="tiny,small,base,large")
@click.option("--time", "duration")
@click.option("--rest", "rest_length", default=50_000)
@click.option("--seed", default=1)
@click.option("--to", "folder", default="checkpoints/presets", type=click.Path(path_type=Path))
@click.option("-s", "--set", "settings", multiple=True)
def main(
    texts: tuple[Path, ...],
    sizes: str,
    presets: str,
    duration: str | None,
    rest_length: int,
    seed: int,
    folder: Path,
    settings: tuple[str, ...],
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    common = [
        "--seed",
        str(seed),
        *(["--time", duration] if duration else []),
        *(f for s in settings for f in ("-s", s)),
    ]
    print(f"{'text':16} {'characters':>10}  {'':7} {'model':22} {'weights':>10} {'read':>12} {'FLOPs':>8}  bits/char")
    for name in texts:
        content = text_files.read([str(name)])
        for size in sorted({min(int(size), len(content)) for size in sizes.split(",")}):
            path, rest = (folder / f"{name.stem}-{size}{suffix}.txt" for suffix in ("", "-rest"))
            path.write_text(content[:size], encoding="utf-8")
            rest.write_text(content[size : size + rest_length], encoding="utf-8")
            scores: dict[str, float] = {}
            for preset in ("", *presets.split(",")):
                run = folder / f"{path.stem}-{preset or 'auto'}"
                if not run.exists():
                    # renamed when finished, so that an interrupted run does not count as one
                    job = run.with_name(f"{run.name}.unfinished")
                    shutil.rmtree(job, ignore_errors=True)
                    charrnn("train", "-q", str(path), "-o", str(job), *(["-c", preset] if preset else []), *common)
                    job.rename(run)
                header, scores[preset] = scored(run, rest)
                model = header.config.model
                kind = f"{model.num_layers} x {model.hidden_size} {model.cell}, {model.dropout:g}"
                print(
                    f"{name.name[-16:]:16} {size:10,}  {preset or 'default':7} {kind:22} {header.parameters:10,}"
                    f" {header.characters_read:12,} {header.flops:8.1e}  {scores[preset]:.4f}",
                    flush=True,
                )
            best = min((bits, preset) for preset, bits in scores.items() if preset)
            print(f"{'':28}  default compared with {best[1]}: {scores[''] / best[0] - 1:+.1%}", flush=True)


if __name__ == "__main__":
    main()
