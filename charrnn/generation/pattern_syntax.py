"""Regular expressions as Python writes them, read into a tree of atoms, sequences, alternatives and repetitions.
An atom matches one character; which ones, Python's own `re` says. Knows neither vocabularies nor models."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass

from charrnn.config.limits import FILE_BOUNDARY
from charrnn.data.decoding import check_characters
from charrnn.errors import ParameterError

_ESCAPE = re.compile(r"\\(?:0[0-7]{0,2}|[0-7]{3}|x..|u.{4}|U.{8}|N\{[^}]*\}|[1-9][0-9]?|.)", re.DOTALL)
_CLASS = re.compile(r"\[\^?\]?(?:\\.|[^\]\\])*\]", re.DOTALL)
_REPEAT = re.compile(r"(?:\*|\+|\?|\{(?!\})(?P<least>[0-9]*)(?P<comma>,(?P<most>[0-9]*))?\})(?P<more>[?+]?)")
_GROUP = re.compile(
    r"\((?:\?(?P<kind>P<\w+>|(?P<on>[a-zA-Z]*)(?:-(?P<off>[a-zA-Z]+))?[:)]|#[^)]*\)|.[=!]?))?", re.DOTALL
)
_FLAGS = {"i": re.IGNORECASE, "s": re.DOTALL, "m": re.MULTILINE, "a": re.ASCII, "u": re.UNICODE}
_ANCHORS = {"^", "$", r"\A", r"\Z", r"\z"}
_ALTERNATIVES = "write the cases as alternatives, with |"


@dataclass(frozen=True)
class Atom:
    """Match one character: what `re` matches with this source and these flags."""

    source: str
    flags: int

    def matches(self, characters: str) -> list[int]:
        """Return the positions of the characters that it matches; not of NUL, which stands between files."""
        found = _compiled(self.source, self.flags).finditer(characters)
        return [match.start() for match in found if match[0] != FILE_BOUNDARY]


@dataclass(frozen=True)
class Sequence:
    """Match one part after the other."""

    parts: tuple[Node, ...]


@dataclass(frozen=True)
class Choice:
    """Match one of the branches."""

    branches: tuple[Node, ...]


@dataclass(frozen=True)
class Repeat:
    """Match a part from `least` to `most` times, or any number of times where that is None."""

    part: Node
    least: int
    most: int | None


Node = Atom | Sequence | Choice | Repeat


def parse(pattern: str) -> Node:
    """Read a regular expression that is to match a whole text.

    Raises MisuseError for what `re` does not compile, and for what is not regular or is not supported; CharRNNError for
    a lone surrogate.
    """
    check_characters(pattern, "pattern")
    if not pattern:
        raise ParameterError("{} is empty; name an expression, or leave it out.", "pattern")
    try:
        return _Parser(pattern, _compiled(pattern).flags).whole()
    except re.error as error:
        raise ParameterError(f"{{}} is no regular expression: {_literal(str(error))}.", "pattern") from error
    except (RecursionError, OverflowError) as error:
        raise ParameterError("{} nests its groups too deeply, or repeats too often; simplify it.", "pattern") from error


def _compiled(pattern: str, flags: int = 0) -> re.Pattern[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what looks like a set in a class, which a later Python may read otherwise
        return re.compile(pattern, flags)


class _Parser:
    """Read a pattern that `re` has compiled, so that its syntax is known to be right, from left to right."""

    def __init__(self, pattern: str, flags: int) -> None:
        self.pattern, self.position, self.flags = pattern, 0, flags & ~re.UNICODE
        if flags & re.VERBOSE:
            self.position = pattern.find("(?")
            raise self._unsupported("(?x)", "spaces and comments in it are", "leave them and the flag out")

    def whole(self) -> Node:
        """Read all of it."""
        return self._choice(0, self.flags)

    def _choice(self, depth: int, flags: int) -> Node:
        branches = [self._sequence(depth, flags)]
        while self.pattern.startswith("|", self.position):
            self.position += 1
            branches.append(self._sequence(depth, flags))
        return branches[0] if len(branches) == 1 else Choice(tuple(branches))

    def _sequence(self, depth: int, flags: int) -> Node:
        parts = list[Node]()
        while self.position < len(self.pattern) and self.pattern[self.position] not in "|)":
            if repeat := _REPEAT.match(self.pattern, self.position):
                parts.append(self._repeat(repeat, parts.pop()))
            elif self.pattern[self.position] == "(":
                group = self._group(depth, flags)
                parts += [] if group is None else [group]
            else:
                source = self._atom()
                if source not in _ANCHORS:
                    parts.append(Atom(source, flags))
                elif depth or (parts if source in ("^", r"\A") else not self._at_end(source)):
                    advice = "the whole text is matched anyway: leave it out"
                    raise self._unsupported(source, "an anchor inside is", advice)
                self.position += len(source)
        return parts[0] if len(parts) == 1 else Sequence(tuple(parts))

    def _atom(self) -> str:
        """Return the source of the atom or anchor that stands here; refuse an escape that is neither."""
        if self.pattern[self.position] == "[":
            found = _CLASS.match(self.pattern, self.position)
            assert found is not None
            return found[0]
        if self.pattern[self.position] != "\\":
            return self.pattern[self.position]
        found = _ESCAPE.match(self.pattern, self.position)
        assert found is not None
        source = found[0]
        if source in (r"\b", r"\B"):
            raise self._unsupported(source, "a word boundary is", "write the characters beside it instead")
        if source[1] in "123456789" and not (len(source) == 4):
            raise self._unsupported(source, "a back-reference is", "write out what it is to match")
        return source

    def _at_end(self, anchor: str) -> bool:
        """Say whether an anchor of the outermost level stands at the end of a branch, where it holds anyway."""
        return self.pattern[self.position + len(anchor) :][:1] in ("", "|")

    def _repeat(self, found: re.Match[str], part: Node) -> Node:
        if found["more"] == "+":
            raise self._unsupported(found[0], "a possessive repetition is", "leave the second + out")
        self.position = found.end()
        if found[0][0] != "{":
            least, most = {"*": (0, None), "+": (1, None), "?": (0, 1)}[found[0][0]]
            return Repeat(part, least, most)
        least = int(found["least"] or 0)
        if found["comma"] is None:
            return Repeat(part, least, least)
        return Repeat(part, least, int(found["most"]) if found["most"] else None)

    def _group(self, depth: int, flags: int) -> Node | None:
        """Read a group; None for a comment or for flags of the whole, which `re` has told already."""
        found = _GROUP.match(self.pattern, self.position)
        assert found is not None
        kind = found["kind"] or ""
        if kind.startswith("#") or (found["on"] is not None and kind.endswith(")")):
            self.position = found.end()
            return None
        if found["on"] is not None:
            flags = self._scoped(flags, found["on"], found["off"] or "")
        elif kind and not kind.endswith(">"):
            raise self._unsupported(found[0], *_refusal(kind))
        elif kind == ">":
            raise self._unsupported(found[0], "an atomic group is", "write (?: instead")
        self.position = found.end()
        inside = self._choice(depth + 1, flags)
        self.position += 1  # its parenthesis
        return inside

    def _scoped(self, flags: int, on: str, off: str) -> int:
        """Return the flags inside of a group that turns some on and some off."""
        if "x" in on:
            raise self._unsupported(f"(?{on}", "spaces and comments in it are", "leave them and the flag out")
        for letter in on:
            flags = (flags & ~re.ASCII if letter in "au" else flags) | (_FLAGS[letter] & ~re.UNICODE)
        for letter in off.replace("x", ""):
            flags &= ~_FLAGS[letter]
        return flags

    def _unsupported(self, source: str, what: str, advice: str) -> ParameterError:
        where = f"{_literal(source)} at position {self.position}"
        return ParameterError(f"{{}} has {where}, and {what} not supported; {advice}.", "pattern")


def _refusal(kind: str) -> tuple[str, str]:
    """Say what an unsupported group is, and what to do instead."""
    if kind.startswith("P"):
        return "a back-reference is", "write out what it is to match"
    if kind.startswith("("):
        return "a conditional is", _ALTERNATIVES
    return "looking ahead or behind is", _ALTERNATIVES


def _literal(text: str) -> str:
    """Write a text so that `str.format` leaves it as it is."""
    return text.replace("{", "{{").replace("}", "}}")
