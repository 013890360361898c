"""What `charrnn train TEXT` reaches with no flag, beside presets of fixed sizes: every training plans its own time.

    python benchmarks/presets.py TEXT... [--sizes 10000,300000,3000000] [--presets tiny,small,base,large] [--time 10m]
        [--seed 1] [--to FOLDER] [-s SECTION.KEY=VALUE]

Cuts each text to its first characters (a size above the text's takes all of it), trains on it without a flag and
then with each preset, and prints sizes, what was read, floating-point operations and the best score on the
validation part. The last column compares with the best preset: below zero, no flag is better. `--time` gives every
training the same time instead of what it plans for itself. The test parts are not looked at.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click

from charrnn import checkpoint, modelfile, text


def trained(path: Path, name: str, arguments: list[str], folder: Path) -> modelfile.Header:
    """Train in a process of its own, or go on with or take a run that lies there already; gives its best model."""
    run = folder / f"{path.stem}-{name}"
    command = [sys.executable, "-m", "charrnn", "train", "-q"]
    if (run / "last.safetensors").exists():
        command += ["--resume", "-m", str(run)]
    else:
        command += [str(path), "-o", str(run), *arguments]
    log = folder / f"{run.name}.log"
    with log.open("ab") as out:
        if subprocess.run(command, stdout=out, stderr=out, check=False).returncode != 0:
            raise click.ClickException(f"{' '.join(command)} failed: see {log}")
    return modelfile.read_header(checkpoint.find_model(str(run)))


@click.command()
@click.argument("texts", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--sizes", default="10000,300000,3000000")
@click.option("--presets", default="tiny,small,base,large")
@click.option("--time", "span")
@click.option("--seed", default=1)
@click.option("--to", "folder", default="benchmarks/presets", type=click.Path(path_type=Path))
@click.option("-s", "--set", "settings", multiple=True)
def main(
    texts: tuple[Path, ...], sizes: str, presets: str, span: str | None, seed: int, folder: Path, settings: tuple[str]
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    common = ["--seed", str(seed), *(["--time", span] if span else []), *(f for s in settings for f in ("-s", s))]
    print(f"{'text':16} {'characters':>10}  {'':7} {'model':22} {'weights':>10} {'read':>12} {'FLOPs':>8}  bits/char")
    for name in texts:
        content = text.read([str(name)])
        for size in sorted({min(int(size), len(content)) for size in sizes.split(",")}):
            path = folder / f"{name.stem}-{size}.txt"
            path.write_text(content[:size], encoding="utf-8")
            scores: dict[str, float] = {}
            for preset in ("", *presets.split(",")):
                header = trained(path, preset or "auto", [*(["-c", preset] if preset else []), *common], folder)
                model = header.config.model
                assert header.latest is not None
                scores[preset] = header.latest.bits_per_character
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
