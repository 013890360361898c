"""Texts of known entropy: draw them from a grammar, score any line, compute the exact entropy.

Owns the notation of `beijing.grammar`, drawing, parsing and the exact sums; knows no models. A line is drawn from
left to right. `pending` are the pieces still to be expanded (text or slots); `bound` are the choices made so far, so
that a name in braces means the same throughout a line.
"""

import argparse
import math
import re
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import product
from pathlib import Path
from random import Random
from typing import NamedTuple, TypeVar

HERE = Path(__file__).resolve().parent
SEED = 20240917
BEIJING_LINES = 6400
DIGITS_LINES = 3000


class Slot(NamedTuple):
    """An expression in braces: a column of a table's row, or (without a table) inline alternatives."""

    table: str | None  # "city"
    row: str  # "city2": which row of the table, so that two different cities fit in one line
    key: str  # "city2.food": its alternative is drawn once per line; inline, the alternatives themselves


Value = TypeVar("Value")
Pieces = tuple[str | Slot, ...]
Choice = tuple[tuple[float, Pieces], ...]  # alternatives with their probabilities
Bound = tuple[tuple[str, int], ...]  # chosen rows and alternatives, sorted by name


class Table(NamedTuple):
    """Rows of a grammar: their weights and, for each column, one choice per row."""

    weights: tuple[float, ...]
    columns: dict[str, tuple[Choice, ...]]


def pieces(text: str) -> Pieces:
    """Split text into literal strings and slots; braces may be nested."""
    found: list[str | Slot] = []
    depth = begin = 0
    for at, character in enumerate(text):
        if character == "{":
            if depth == 0 and at > begin:
                found.append(text[begin:at])
            if depth == 0:
                begin = at + 1
            depth += 1
        elif character == "}":
            depth -= 1
            if depth < 0:
                raise ValueError(f"a brace is closed that was not opened in {text!r}")
            if depth == 0:
                found.append(slot(text[begin:at]))
                begin = at + 1
    if depth:
        raise ValueError(f"a brace is not closed in {text!r}")
    if begin < len(text):
        found.append(text[begin:])
    return tuple(found)


def slot(inside: str) -> Slot:
    """Parse the content of braces: `city`, `city2.food` or `a|b*3`."""
    name = re.fullmatch(r"([a-z]+)(\d?)(\.[a-z]+)?", inside)
    if not name:
        return Slot(None, inside, inside)
    table, number, column = name.groups()
    return Slot(table, table + number, table + number + (column or "."))


@cache
def choice(text: str) -> Choice:
    """Parse alternatives `a|b*3|~`: a weight follows an asterisk, a tilde is the empty string."""
    alternatives: list[str] = [""]
    depth = 0
    for character in text:
        depth += (character == "{") - (character == "}")
        if character == "|" and depth == 0:
            alternatives.append("")
        else:
            alternatives[-1] += character
    weighted = [re.fullmatch(r"(.+?)(?:\*(\d+))?", alternative) for alternative in alternatives]
    if not all(weighted):
        raise ValueError(f"an alternative is empty in {text!r}; write ~ for nothing")
    pairs = [(match[1], int(match[2] or 1)) for match in weighted if match]
    total = sum(weight for _, weight in pairs)
    return tuple((weight / total, () if text == "~" else pieces(text)) for text, weight in pairs)


def spread(alternatives: Choice) -> Choice:
    """Multiply out inline alternatives: `{十|二十}{~|一}` is 十, 十一, 二十 and 二十一."""
    found: list[tuple[float, Pieces]] = []
    for probability, alternative in alternatives:
        options = [
            choice(piece.key) if isinstance(piece, Slot) and piece.table is None else ((1.0, (piece,)),)
            for piece in alternative
        ]
        for combination in product(*options):
            share = math.prod(part for part, _ in combination)
            found.append((probability * share, tuple(piece for _, some in combination for piece in some)))
    return tuple(found)


def read_tables(source: str) -> dict[str, Table]:
    """Parse a grammar: `name: columns`, then indented rows of an optional weight and the cells."""
    weights: dict[str, list[float]] = {}
    columns: dict[str, dict[str, list[Choice]]] = {}
    name = ""
    for number, line in enumerate(source.splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if not line[0].isspace():
            name = words[0].removesuffix(":")
            weights[name], columns[name] = [], {column: [] for column in words[1:]}
            continue
        weight = float(words.pop(0)) if words[0].isascii() and words[0].isdigit() else 1.0
        if name not in columns or len(words) != len(columns[name]):
            raise ValueError(f"line {number} of the grammar does not fill its columns: {line.strip()}")
        cells = [choice(word) for word in words]
        if len(cells) == 1 and name != "line":
            # Separate rows, so that {house2} differs from {house}, not only from its pattern.
            (column,) = columns[name].values()
            for probability, alternative in spread(cells[0]):
                weights[name].append(weight * probability)
                column.append(((1.0, alternative),))
            continue
        weights[name].append(weight)
        for column, cell in zip(columns[name].values(), cells, strict=True):
            column.append(cell)
    return {
        name: Table(tuple(weights[name]), {column: tuple(cells) for column, cells in columns[name].items()})
        for name in columns
    }


class Branch(NamedTuple):
    """One possible continuation: its probability, the text it adds, and what is then pending and bound."""

    probability: float
    text: str
    pending: Pieces
    bound: Bound


class Grammar:
    """A finite language with probabilities; the table `line` holds its templates."""

    def __init__(self, tables: dict[str, Table]) -> None:
        self.tables = tables
        total = sum(tables["line"].weights)
        templates = next(iter(tables["line"].columns.values()))
        self.templates = tuple(
            (weight / total * probability, alternative)
            for weight, template in zip(tables["line"].weights, templates, strict=True)
            for probability, alternative in template
        )
        # Cached per instance: a state recurs in thousands of lines.
        self.branches = cache(self._branches)
        self.sums = cache(self._sums)
        self.mentions = cache(self._mentions)
        try:
            for _, template in self.templates:
                self.mentions(template)
        except RecursionError as error:
            raise ValueError("a table of the grammar mentions itself: its lines could be endless") from error

    def cell(self, slot: Slot, row: int) -> Choice:
        """Return the alternatives of a slot in the given row; a bare table name means its first column."""
        columns = self.tables[slot.table or ""].columns
        _, _, column = slot.key.partition(".")
        return columns[column or next(iter(columns))][row]

    def _mentions(self, pieces: Pieces) -> frozenset[str]:
        """Collect the tables and keys that pieces and all their expansions mention."""
        names: set[str] = set()
        for piece in pieces:
            if isinstance(piece, str):
                continue
            names.add(piece.key)
            if piece.table is None:
                choices = [choice(piece.key)]
            elif piece.table not in self.tables:
                raise ValueError(f"no table is named {piece.table!r}")
            else:
                column = piece.key.partition(".")[2]
                if column and column not in self.tables[piece.table].columns:
                    raise ValueError(f"the table {piece.table!r} has no column {column!r}")
                names.add(piece.table)
                choices = [self.cell(piece, row) for row in range(len(self.tables[piece.table].weights))]
            for alternatives in choices:
                for _, alternative in alternatives:
                    names |= self.mentions(alternative)
        return frozenset(names)

    def still_needed(self, bound: Bound, pending: Pieces) -> Bound:
        """Drop the choices that `pending` cannot mention, so that equal futures are equal states."""
        names = self.mentions(pending)
        return tuple(pair for pair in bound if pair[0] in names or pair[0].rstrip("0123456789") in names)

    def _branches(self, pending: Pieces, bound: Bound) -> tuple[Branch, ...]:
        """Expand the first piece of `pending` in every possible way."""
        piece, rest = pending[0], pending[1:]
        if isinstance(piece, str):
            return (Branch(1.0, piece, rest, bound),)
        decided = dict(bound)
        if piece.table is not None and piece.row not in decided:
            table = self.tables[piece.table]
            taken = {row for name, row in bound if name.rstrip("0123456789") == piece.table}
            free = [row for row in range(len(table.weights)) if row not in taken]
            total = sum(table.weights[row] for row in free)
            return tuple(
                Branch(table.weights[row] / total * later.probability, *later[1:])
                for row in free
                for later in self._branches(pending, tuple(sorted((*bound, (piece.row, row)))))
            )
        alternatives = choice(piece.key) if piece.table is None else self.cell(piece, decided[piece.row])
        found = []
        for index, (probability, alternative) in enumerate(alternatives):
            if piece.key in decided and decided[piece.key] != index:
                continue
            after = tuple(sorted({**decided, piece.key: index}.items())) if len(alternatives) > 1 else bound
            text = ""
            if alternative and isinstance(alternative[0], str):
                text, alternative = alternative[0], alternative[1:]
            left = alternative + rest
            chance = 1.0 if piece.key in decided else probability
            found.append(Branch(chance, text, left, self.still_needed(after, left)))
        return tuple(found)

    def draw(self, random: Random) -> tuple[str, float]:
        """Draw a line; return it with the probability of its derivation."""
        probability, pending = pick(self.templates, random)
        line = ""
        bound: Bound = ()
        while pending:
            branches = self.branches(pending, bound)
            _, branch = pick([(branch.probability, branch) for branch in branches], random)
            line, pending, bound = line + branch.text, branch.pending, branch.bound
            probability *= branch.probability
        return line, probability

    def derivations(self, line: str) -> list[float]:
        """Parse a line; return the probabilities of its derivations, none if it is not in the language."""

        def finish(probability: float, at: int, pending: Pieces, bound: Bound) -> Iterator[float]:
            if not pending:
                if at == len(line):
                    yield probability
                return
            for branch in self.branches(pending, bound):
                if line.startswith(branch.text, at):
                    chance = probability * branch.probability
                    yield from finish(chance, at + len(branch.text), branch.pending, branch.bound)

        return [
            derivation
            for probability, template in self.templates
            # Searching for the template's literal words first rules out nearly all templates.
            if all(piece in line for piece in template if isinstance(piece, str))
            for derivation in finish(probability, 0, template, ())
        ]

    def bits(self, line: str) -> float:
        """Compute -log2 P of a line (its newline is certain); infinite outside the language."""
        probability = sum(self.derivations(line))
        return -math.log2(probability) if probability else math.inf

    def _sums(self, pending: Pieces, bound: Bound) -> tuple[float, float]:
        """Compute the entropy in bits and the expected length of the expansion of `pending`."""
        if not pending:
            return 0.0, 0.0
        entropy = length = 0.0
        for probability, text, left, after in self.branches(pending, bound):
            later_entropy, later_length = self.sums(left, after)
            entropy += probability * (later_entropy - math.log2(probability))  # H = sum p (H' - log2 p)
            length += probability * (later_length + len(text))
        return entropy, length

    def independent(self, template: Pieces) -> list[Pieces]:
        """Partition a template's pieces into groups that share no name, so that their entropies add up."""
        groups: list[list[int]] = []
        for at, piece in enumerate(template):
            names = self.mentions((piece,))
            joined = [group for group in groups if any(names & self.mentions((template[i],)) for i in group)]
            groups = [group for group in groups if group not in joined]
            # In the order of the line: the second mention of a table depends on the first.
            groups.append(sorted([at, *(i for group in joined for i in group)]))
        return [tuple(template[at] for at in group) for group in groups]

    def entropy_and_length(self) -> tuple[float, float]:
        """Compute the exact entropy in bits and the expected length of a line, including its newline.

        The entropy is that of derivations; it is the text's as long as every line has only one.
        """
        entropy, length = 0.0, 1.0
        for probability, template in self.templates:
            parts = [self.sums(group, ()) for group in self.independent(template)]
            entropy += probability * (sum(part[0] for part in parts) - math.log2(probability))
            length += probability * sum(part[1] for part in parts)
        return entropy, length

    def lines(self, pending: Pieces, bound: Bound = ()) -> Iterator[tuple[str, float]]:
        """Enumerate all expansions of `pending` with their probabilities; for small pieces only."""
        if not pending:
            yield "", 1.0
            return
        for branch in self.branches(pending, bound):
            for line, probability in self.lines(branch.pending, branch.bound):
                yield branch.text + line, branch.probability * probability


def pick(weighted: Sequence[tuple[float, Value]], random: Random) -> tuple[float, Value]:
    """Draw one of the pairs by its probability."""
    mark = random.random()
    for probability, value in weighted:
        mark -= probability
        if mark < 0:
            return probability, value
    return weighted[-1]  # the probabilities may add up to slightly less than 1


def counting_tables() -> dict[str, Table]:
    """Return the grammar of digits.txt: from one of nine starts, up to 8 and on from 0, three times around."""
    starts = ("".join(str((start + step) % 9) for step in range(27)) for start in range(9))
    return {"line": Table((1.0,) * 9, {"text": tuple(choice(line) for line in starts)})}


@cache
def beijing() -> Grammar:
    """Read the grammar of beijing.txt."""
    return Grammar(read_tables((HERE / "beijing.grammar").read_text(encoding="utf-8")))


@cache
def digits() -> Grammar:
    """Build the grammar of digits.txt."""
    return Grammar(counting_tables())


def bits(line: str) -> float:
    """Compute -log2 P of a line of either text; a line of digits belongs to digits.txt."""
    return (digits() if line.isascii() and line.isdigit() else beijing()).bits(line)


def drawn(grammar: Grammar, count: int, seed: int) -> list[tuple[str, float]]:
    """Draw independent lines, with their probabilities."""
    random = Random(seed)
    return [grammar.draw(random) for _ in range(count)]


def text(lines: list[tuple[str, float]]) -> str:
    """Join drawn lines into a text that ends in a newline."""
    return "".join(line + "\n" for line, _ in lines)


def summary(name: str, grammar: Grammar, lines: list[tuple[str, float]]) -> str:
    """Describe a text: its size, its bits per character and those of the language."""
    entropy, length = grammar.entropy_and_length()
    content = text(lines)
    measured = -sum(math.log2(probability) for _, probability in lines)
    return (
        f"{name}: {len(lines)} lines, {len(content)} characters, {len(set(content))} distinct, "
        f"{len(content.encode())} bytes; {measured / len(content):.4f} bits/char\n"
        f"  the language: {entropy:.4f} bits and {length:.4f} characters a line, "
        f"so {entropy / length:.4f} bits/char"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the two texts, or draw or score lines of their languages."""
    parser = argparse.ArgumentParser(description="Write beijing.txt and digits.txt beside this script.")
    task = parser.add_mutually_exclusive_group()
    task.add_argument("--score", metavar="FILE", help="print bits/char, bits, characters and text by line")
    task.add_argument("--entropy", action="store_true", help="print the summary without writing the files")
    task.add_argument("--draw", metavar="N", type=int, help="print N fresh lines of beijing.txt's language")
    parser.add_argument("--seed", type=int, default=SEED + 1, help="seed of --draw (default: %(default)s)")
    options = parser.parse_args(arguments)

    if options.score is not None:
        score(options.score, parser)
    elif options.draw is not None:
        sys.stdout.write(text(drawn(beijing(), options.draw, options.seed)))
    else:
        texts = (("beijing.txt", beijing(), BEIJING_LINES), ("digits.txt", digits(), DIGITS_LINES))
        for name, grammar, count in texts:
            lines = drawn(grammar, count, SEED)
            if not options.entropy:
                (HERE / name).write_bytes(text(lines).encode())
            print(summary(name, grammar, lines))


def score(name: str, parser: argparse.ArgumentParser) -> None:
    """Print the bits of each line, and to stderr how many lines belong to one of the languages."""
    try:
        raw = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
        lines = raw.decode("utf-8").removesuffix("\n").split("\n")
    except OSError as error:
        parser.error(f"cannot read {name}: {error.strerror}")
    except UnicodeDecodeError as error:
        parser.error(f"{name} is not UTF-8 at byte {error.start}")
    total = characters = known = 0.0
    for line in lines:
        length, line_bits = len(line) + 1, bits(line)
        print(f"{line_bits / length:.4f}\t{line_bits:.4f}\t{length}\t{line}")
        if line_bits < math.inf:
            known, total, characters = known + 1, total + line_bits, characters + length
    print(
        f"{known:.0f} of {len(lines)} lines belong to the language"
        + (f", at {total / characters:.4f} bits/char" if known else ""),
        file=sys.stderr,
    )


if __name__ == "__main__":
    main()
