"""How often ordinary text repeats itself, and so what --no-repeat N would forbid.

    python benchmarks/repeats.py TEXT... [--within 500] [--sizes 10,20,30,40,60,100] [--last 0.1]

Prints, for the last tenth of each text, the share of characters that complete a run of N characters already found in
the `--within` characters before. In a sample of that length they would have been forbidden.
"""

from __future__ import annotations

from pathlib import Path

import click

from charrnn.data import text_files


def share(content: str, size: int, within: int) -> float:
    """Return the share of characters that complete a run of `size` for the second time."""
    last: dict[str, int] = {}
    again = 0
    for end in range(size, len(content) + 1):
        run = content[end - size : end]
        again += end - last.get(run, -within - 1) <= within
        last[run] = end
    return again / len(content)


@click.command()
@click.argument("texts", nargs=-1, required=True)
@click.option("--within", default=500)
@click.option("--sizes", default="10,20,30,40,60,100")
@click.option("--last", default=0.1)
def main(texts: tuple[str, ...], within: int, sizes: str, last: float) -> None:
    lengths = [int(size) for size in sizes.split(",")]
    print(f"{'':24}  characters" + "".join(f"  {length:>6}" for length in lengths))
    for name in texts:
        content = text_files.read([name])
        content = content[int(len(content) * (1 - last)) :]
        shares = "".join(f"  {share(content, length, within):6.2%}" for length in lengths)
        print(f"{Path(name).name[-24:]:24}  {len(content):10,}{shares}", flush=True)


if __name__ == "__main__":
    main()
