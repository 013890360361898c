"""What `charrnn train TEXT` reaches with no flag, beside presets of fixed sizes: every training plans its own time.

    python benchmarks/presets.py TEXT... [--sizes 10000,300000,3000000] [--presets tiny,small,base,large] [--time 10m]
        [--rest 50000] [--seed 1] [--to FOLDER] [-s SECTION.KEY=VALUE]

Cuts each text to its first characters, trains on them without a flag and then with each preset, and scores what comes
after them, which no training has seen (of a text that ends there, the validation part: small, and rough). Prints
sizes, what was read, floating-point operations and the score. The last line of each size compares with the best
preset: below zero, no flag is better. `--time` gives every training the same time instead of what it plans for
itself. Runs that were finished in the folder before are taken as they are.
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


def called(*arguments: str) -> str:
    """Run a command in a process of its own; gives what it printed."""
    command = [sys.executable, "-m", "charrnn", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise click.ClickException(f"{' '.join(command)} failed:\n{done.stderr}")
    return done.stdout


def scored(run: Path, rest: Path) -> tuple[model_file.Header, float]:
    """Give a run's best model, and its bits/char on what came after its text."""
    header = model_file.read_header(run_dir.find_model(str(run)))
    if rest.stat().st_size > 0:
        return header, json.loads(called("evaluate", "-m", str(run), str(rest), "--json"))["bits_per_character"]
    assert header.latest is not None
    return header, header.latest.bits_per_character


@click.command()
@click.argument("texts", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--sizes", default="10000,300000,3000000")
@click.option("--presets", default="tiny,small,base,large")
@click.option("--time", "span")
@click.option("--rest", "after", default=50_000)
@click.option("--seed", default=1)
@click.option("--to", "folder", default="checkpoints/presets", type=click.Path(path_type=Path))
@click.option("-s", "--set", "settings", multiple=True)
def main(
    texts: tuple[Path, ...],
    sizes: str,
    presets: str,
    span: str | None,
    after: int,
    seed: int,
    folder: Path,
    settings: tuple[str, ...],
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    common = ["--seed", str(seed), *(["--time", span] if span else []), *(f for s in settings for f in ("-s", s))]
    print(f"{'text':16} {'characters':>10}  {'':7} {'model':22} {'weights':>10} {'read':>12} {'FLOPs':>8}  bits/char")
    for name in texts:
        content = text_files.read([str(name)])
        for size in sorted({min(int(size), len(content)) for size in sizes.split(",")}):
            path, rest = (folder / f"{name.stem}-{size}{part}.txt" for part in ("", "-rest"))
            path.write_text(content[:size], encoding="utf-8")
            rest.write_text(content[size : size + after], encoding="utf-8")
            scores: dict[str, float] = {}
            for preset in ("", *presets.split(",")):
                run = folder / f"{path.stem}-{preset or 'auto'}"
                if not run.exists():
                    # one that was broken off is not to be taken for a result
                    job = run.with_name(f"{run.name}.begun")
                    shutil.rmtree(job, ignore_errors=True)
                    called("train", "-q", str(path), "-o", str(job), *(["-c", preset] if preset else []), *common)
                    job.rename(run)
                header, scores[preset] = scored(run, rest)
                model = header.config.model
                kind = f"{model.num_layers} x {model.hidden_size} {model.cell}, {model.dropout:g}"
                print(
                    f"{name.name[-16:]:16} {size:10,}  {preset or 'no flag':7} {kind:22} {header.parameters:10,}"
                    f" {header.read:12,} {header.flops:8.1e}  {scores[preset]:.4f}",
                    flush=True,
                )
            best = min((bits, preset) for preset, bits in scores.items() if preset)
            print(f"{'':28}  no flag against {best[1]}: {scores[''] / best[0] - 1:+.1%}", flush=True)


if __name__ == "__main__":
    main()
