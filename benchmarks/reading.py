"""Speed of reading texts, and the memory that a large one takes.

    python benchmarks/reading.py [--size 100MB] [--rounds 5] [--english FILE] [--chinese FILE]
    python benchmarks/reading.py --big 2GB [--documents none] [--folder DIR] [--language english]

Texts are random lines of the named files (data/beijing.txt, and the ASCII lines of docs/); "quoted" is the English one
with ’ and “” instead of ' and "". The first form prints the speed, in MB of UTF-8 a second, of reading, decoding,
hashing, collecting the vocabulary and encoding, with the tokens in memory and in a file; and of the machine's limits,
measured in turns with them: reading and hashing the bytes, and decoding them in one piece. Median, lowest and highest;
by wall clock and by processor time. Only the wall clock includes the wait until the token file is on the disk.

The second form trains a tiny model on such a text for 20 steps, resumes it for 4 more and evaluates it, and prints the
peak of RssAnon (/proc/PID/status, Linux) and the time of each. All its files are removed.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import click

from charrnn.config.schema import DataConfig
from charrnn.data import corpus, spool, token_cache
from charrnn.data.spool import TextSpool
from charrnn.data.text_files import TextReader

ROOT = Path(__file__).parents[1]
TINY = (
    "model.hidden_size=16",
    "model.num_layers=1",
    "model.embedding_size=8",
    "model.dropout=0",
    "train.batch_size=64",
    "train.sequence_length=128",
    "train.steps=20",
    "train.eval_every=20",
    "train.learning_rate=0.002",
    "train.precision=fp32",
    "train.patience=null",
)
UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}
PIECE = 1 << 20


def bytes_of(size: str) -> int:
    found = re.fullmatch(r"([\d.]+)\s*([KMG]?)B?", size.upper())
    if found is None:
        raise click.BadParameter(f"{size} is not a size; name e.g. 100MB or 2GB.")
    return int(float(found[1]) * UNITS[found[2]])


def varied(lines: list[str], size: int) -> Iterator[bytes]:
    """Yield blocks of random lines until there are `size` bytes."""
    dice = random.Random(0)
    while size > 0:
        block = "".join(dice.choices(lines, k=20_000)).encode()
        yield block
        size -= len(block)


def write(path: Path, lines: list[str], size: int) -> None:
    with path.open("wb") as file:
        for block in varied(lines, size):
            file.write(block)


def bases(english: str | None, chinese: str) -> dict[str, list[str]]:
    if english is None:
        pages = sorted((ROOT / "docs").glob("*.md"))
        text = "".join(page.read_text(encoding="utf-8") for page in pages)
        plain = [line for line in text.splitlines(keepends=True) if line.isascii()]
    else:
        plain = Path(english).read_text(encoding="utf-8").splitlines(keepends=True)
    quoted = [re.sub(r'"([^"\n]*)"', r"“\1”", line).replace("'", "’") for line in plain]
    return {
        "english": plain,
        "quoted": quoted,
        "chinese": Path(chinese).read_text(encoding="utf-8").splitlines(keepends=True),
    }


def hashed(path: Path) -> None:
    sha = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            sha.update(piece)


def encoded(path: Path, limit: int) -> None:
    """Read and encode a text; the tokens stay in memory if they take less than `limit` bytes."""
    spool.MAX_IN_MEMORY = token_cache.MIN_FILE_BYTES = limit
    data = DataConfig(texts=[str(path)])
    with TextSpool.read(TextReader(data.texts), path.parent) as read:
        split_text = corpus.build(read, data, 0, path.name)
        token_cache.write(split_text, data, 0, read.stamps, path.with_suffix(".tokens"))


def speed(folder: Path, lines: dict[str, list[str]], size: int, rounds: int) -> None:
    ways: dict[str, Callable[[Path], object]] = {
        "read and SHA-256": hashed,
        "decode in one piece": lambda path: path.read_bytes().decode(),
        "charrnn, in memory": lambda path: encoded(path, 1 << 62),
        "charrnn, in a file": lambda path: encoded(path, 1),
    }
    paths = {name: folder / f"{name}.txt" for name in lines}
    for name, path in paths.items():
        write(path, lines[name], size)
    taken: dict[tuple[str, str], list[tuple[float, float]]] = {(name, way): [] for name in paths for way in ways}
    for number in range(rounds + 1):
        for (name, way), times in taken.items():
            clock, processor = time.perf_counter(), time.process_time()
            ways[way](paths[name])
            if number:  # the first warms up
                times.append((time.perf_counter() - clock, time.process_time() - processor))
    print(f"text      way                   MB/s by wall clock     MB/s of processor time   ({rounds} rounds)")
    for (name, way), times in taken.items():
        megabytes = paths[name].stat().st_size / 1e6
        columns = []
        for column in (0, 1):
            rates = [megabytes / each[column] for each in times]
            columns.append(f"{statistics.median(rates):5.0f} ({min(rates):.0f}-{max(rates):.0f})")
        print(f"{name:8}  {way:20}  {columns[0]:21}  {columns[1]}")


def anonymous(process: subprocess.Popen[bytes]) -> int:
    """Return the anonymous resident memory of a process in bytes, 0 when it has ended."""
    try:
        status = Path(f"/proc/{process.pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    found = re.search(r"RssAnon:\s+(\d+) kB", status)
    return int(found[1]) * 1024 if found else 0


def watched(name: str, arguments: list[str], metrics: Path) -> None:
    """Run a command; print its peak memory, its time, and the time until its first line of metrics."""
    before = metrics.stat().st_size if metrics.exists() else 0
    began, first, peak = time.perf_counter(), 0.0, 0
    process = subprocess.Popen([sys.executable, "-m", "charrnn", *arguments], stdout=subprocess.PIPE)
    while process.poll() is None:
        peak = max(peak, anonymous(process))
        if not first and metrics.exists() and metrics.stat().st_size > before:
            first = time.perf_counter() - began
        time.sleep(0.02)
    assert process.stdout is not None
    with process.stdout:
        printed = process.stdout.read().decode().strip()
    if process.returncode:
        raise click.ClickException(f"{name} ended with {process.returncode}")
    extra = f"{first:.0f} s until step 4" if first else printed.splitlines()[-1]
    print(f"{name:9} peak RssAnon {peak / 1e9:.2f} GB, {time.perf_counter() - began:.0f} s in all, {extra}", flush=True)


def big(folder: Path, lines: list[str], size: int, documents: str) -> None:
    path, run = folder / "big.txt", folder / "run"
    write(path, lines, size)
    print(f"{path.stat().st_size / 1e9:.2f} GB of text, data.documents={documents}", flush=True)
    given = [word for setting in (*TINY, f"data.documents={documents}") for word in ("-s", setting)]
    common, metrics = ["--device", "cpu", "-q"], run / "metrics.jsonl"
    watched("train", ["train", str(path), "-o", str(run), "--seed", "1", *given, *common], metrics)
    watched("--resume", ["train", "--resume", "-m", str(run), "-s", "train.steps=24", *common], metrics)
    watched("evaluate", ["evaluate", "-m", str(run), "--device", "cpu"], run / "none")
    with metrics.open() as file:
        *_, last = file
    print("validation", json.loads(last)["validation"]["characters"], "characters")
    print({file.name: file.stat().st_size for file in sorted(run.iterdir())})


@click.command()
@click.option("--size", default="100MB")
@click.option("--rounds", default=5)
@click.option("--english", help="A file in UTF-8 [the ASCII lines of docs/].")
@click.option("--chinese", default=str(ROOT / "data" / "beijing.txt"))
@click.option("--big", "big_size", help="Train on a text of this size, e.g. 2GB, and watch its memory.")
@click.option("--language", default="english", type=click.Choice(["english", "quoted", "chinese"]))
@click.option("--documents", default="none")
@click.option("--folder", help="Where to make a temporary folder [the system's].")
def main(
    size: str,
    rounds: int,
    english: str | None,
    chinese: str,
    big_size: str | None,
    language: str,
    documents: str,
    folder: str | None,
) -> None:
    lines = bases(english, chinese)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        if big_size is None:
            speed(Path(temporary), lines, bytes_of(size), rounds)
        else:
            big(Path(temporary), lines[language], bytes_of(big_size), documents)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
