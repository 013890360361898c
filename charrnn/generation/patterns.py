"""Text in the form of a regular expression: which characters may come next, so that what is written matches the whole.

The automaton of Thompson (1968) is run as sets of its states, which are remembered as they are met: a deterministic one
would be exponential in the pattern. Knows characters and tokens, not models. Shapes: V vocabulary, A atoms, N states of
the automaton, M states of the stop texts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from charrnn.data.vocabulary import Vocabulary
from charrnn.errors import MisuseError, ParameterError
from charrnn.generation.pattern_syntax import Atom, Choice, Node, Sequence, parse
from charrnn.generation.stop_texts import StopTexts
from charrnn.showable import shown

MAX_STATES = 100_000
_MAX_PRODUCT = 1_000_000  # states of a pattern, times those of the stop texts
_MAX_REMEMBERED = 1 << 22  # numbers in the sets of states and their masks
_NEVER = 1 << 30  # characters
_KEPT = ("pattern", "until", "keep_until")
_SHOWN = 10  # atoms that the vocabulary lacks

Mask = npt.NDArray[np.float64]  # 0 where a token may follow, else minus infinity


class Pattern:
    """A regular expression as a nondeterministic automaton with N states, of which 0 accepts.

    A state either reads a character that its atom matches (`atoms` has its index, else -1) or branches; `after` are the
    states that follow. Raises MisuseError for an expression that is wrong, unsupported or too large.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        tree = parse(source)
        self.sources: dict[Atom, int] = {}
        self.atoms, self.after = [-1], list[tuple[int, ...]]([()])
        try:
            if (size := _size(tree)) > MAX_STATES:
                count = f"would take {size:,} states, more than {MAX_STATES:,}"
                raise ParameterError(f"{{}} {count}; repeat less.", "pattern")
            self.first = self._build(tree, 0)
        except RecursionError as error:
            raise ParameterError("{} nests its groups too deeply; simplify it.", "pattern") from error
        self._automaton: tuple[Vocabulary, tuple[str, ...], PatternAutomaton] | None = None

    def automaton(self, vocabulary: Vocabulary, stops: StopTexts, *, keep_until: bool = False) -> PatternAutomaton:
        """Return the automaton over a vocabulary, with texts that end a sample; the last one is remembered.

        Raises MisuseError where these are to be kept, since they do not match.
        """
        if keep_until:
            raise ParameterError("{} is of a text that stops before that of {}; leave {} out.", *_KEPT)
        kept = self._automaton
        if kept is None or kept[0] is not vocabulary or kept[1] != stops.texts:
            kept = self._automaton = vocabulary, stops.texts, PatternAutomaton(self, vocabulary.characters, stops)
        return kept[2]

    def _build(self, node: Node, after: int) -> int:
        """Add the states that match a node and lead to state `after`; return the first."""
        if isinstance(node, Atom):
            return self._add(self.sources.setdefault(node, len(self.sources)), (after,))
        if isinstance(node, Sequence):
            for part in reversed(node.parts):
                after = self._build(part, after)
            return after
        if isinstance(node, Choice):
            return self._add(-1, tuple(self._build(branch, after) for branch in node.branches))
        last = after
        if node.most is None:
            last = self._add(-1, ())
            self.after[last] = (self._build(node.part, last), after)
        else:
            for _ in range(node.most - node.least):
                last = self._add(-1, (self._build(node.part, last), after))
        for _ in range(node.least):
            last = self._build(node.part, last)
        return last

    def _add(self, atom: int, after: tuple[int, ...]) -> int:
        self.atoms.append(atom)
        self.after.append(after)
        return len(self.atoms) - 1


def _size(node: Node) -> int:
    """Count the states of a node, or the steps of building it where those are more."""
    if isinstance(node, Atom):
        return 1
    if isinstance(node, Sequence):
        return 1 + sum(_size(part) for part in node.parts)
    if isinstance(node, Choice):
        return 1 + sum(_size(branch) for branch in node.branches)
    return 1 + _size(node.part) * (node.least + 1 if node.most is None else node.most) + (node.most or 0)


class _States:
    """A set of states that a text can lead to, that of its stop texts, and which tokens may follow.

    `age` is how many characters ago what was written matched, if a stop text may have begun there or before, and else
    _NEVER; 0 is now. `left` (V) counts the characters that must follow each token, at least. `longer` counts those that
    must follow to make a longer match.
    """

    __slots__ = ("_all", "_most", "age", "following", "left", "longer", "matched", "states")

    def __init__(
        self, states: frozenset[int], matched: int, age: int, left: npt.NDArray[np.int32], longer: int
    ) -> None:
        self.states, self.matched, self.age, self.left, self.longer = states, matched, age, left, longer
        self.following: dict[int, _States] = {}
        self._most = int(left[left < _NEVER].max(initial=0))
        self._all = _mask(left < _NEVER)

    def mask(self, remaining: int) -> Mask:
        """Return what may be written (V) where `remaining` characters can be."""
        return self._all if remaining > self._most else _mask(self.left < remaining)


def _mask(permitted: npt.NDArray[np.bool_]) -> Mask:
    return np.where(permitted, 0.0, -np.inf)


class PatternAutomaton:
    """A pattern over the V characters of a vocabulary, beside texts that may end what matches it.

    A character is permitted that the pattern can go on with, and then be finished; or that continues a stop text,
    if what was written before it, or up to a position inside it, matches. So no text leads to a dead end.
    """

    def __init__(self, pattern: Pattern, characters: str, stops: StopTexts) -> None:
        self.pattern, self.stops, self.size = pattern, stops, len(characters)
        if len(pattern.atoms) * len(stops.held) > _MAX_PRODUCT:
            raise ParameterError(
                "{} is too large beside texts of {} that are so long; shorten either.", "pattern", "until"
            )
        self._matches = np.zeros((len(pattern.sources), self.size), dtype=bool)  # (A, V)
        for row, atom in zip(self._matches, pattern.sources, strict=True):
            row[atom.matches(characters)] = True
        self._rows = [row.data for row in self._matches]  # far faster to read one number from
        inside = {character for text in stops.texts for character in text}
        self._stop_tokens = {token: character for token, character in enumerate(characters) if character in inside}
        self.kinds = self._alike()
        self._distance = self._distances(True)
        self._ends = self._completions()
        self._known: dict[tuple[frozenset[int], int, int], _States] = {}
        self._remembered = 0

    def start(self, prime: str, length: int) -> _States:
        """Return the states after a prime. Raises MisuseError where no text of `length` characters can match."""
        matched = self.stops.after(prime)
        distance = self._distance[matched][self.pattern.first]
        if distance == _NEVER:
            raise self._impossible()
        if distance > length:
            shortest = f"The shortest text that matches {{}} has {distance:,} characters"
            raise ParameterError(f"{shortest}, and {{}} is {length:,}; raise it.", "pattern", "length")
        return self._states([self.pattern.first], matched, _NEVER)

    def follow(self, states: _States, token: int) -> _States:
        """Return the states after a token that may follow, and remember them."""
        atoms, after = self.pattern.atoms, self.pattern.after
        first = [after[state][0] for state in states.states if self._rows[atoms[state]][token]]
        matched = self._stop_after(states.matched, token)
        states.following[self.kinds[token]] = found = self._states(first, matched, states.age + 1)
        return found

    def _alike(self) -> list[int]:
        """Number the tokens (V): those that the same atoms match share one, except those of stop texts."""
        columns, numbers = np.packbits(self._matches, axis=0), dict[tuple[bytes, int], int]()
        keys = (
            (columns[:, token].tobytes(), token if token in self._stop_tokens else -1) for token in range(self.size)
        )
        return [numbers.setdefault(key, len(numbers)) for key in keys]

    def _states(self, first: Iterable[int], matched: int, age: int) -> _States:
        """Return the states that follow without a character; only those from which the pattern can be finished."""
        distance, open_states, visited = self._distance[matched], list(first), set[int]()
        while open_states:
            state = open_states.pop()
            if state not in visited and distance[state] < _NEVER:
                visited.add(state)
                if self.pattern.atoms[state] < 0:
                    open_states += self.pattern.after[state]
        reading = frozenset(state for state in visited if self.pattern.atoms[state] >= 0)
        age = 0 if 0 in visited else age if age <= self.stops.held[matched] else _NEVER
        key = reading, matched, age
        if (known := self._known.get(key)) is None:
            self._remembered += len(visited) + 2 * self.size
            if self._remembered > _MAX_REMEMBERED:
                for other in self._known.values():
                    other.following.clear()
                self._known.clear()
                self._remembered = 0
            known = self._known[key] = _States(reading, matched, age, *self._left(reading, matched, age))
        return known

    def _left(self, states: frozenset[int], matched: int, age: int) -> tuple[npt.NDArray[np.int32], int]:
        """Count the characters that must follow each token (V), and those of a longer match."""
        atoms, after = self.pattern.atoms, self.pattern.after
        left, best = np.full(self.size, _NEVER, np.int32), dict[int, int]()
        for state in states:
            atom = atoms[state]
            best[atom] = min(best.get(atom, _NEVER), self._distance[0][after[state][0]])
        for atom, distance in best.items():
            np.minimum(left, distance, out=left, where=self._matches[atom])
        ends = dict[int, int]()
        for token in self._stop_tokens:
            following = self._stop_after(matched, token)
            if found := self.stops.found[following]:
                left[token], ends[token] = _NEVER, 0 if age + 1 <= found else _NEVER
            else:
                distances = self._distance[following]
                reading = (state for state in states if self._rows[atoms[state]][token])
                left[token] = min((distances[after[state][0]] for state in reading), default=_NEVER)
                ends[token] = self._left_to_end(following, age + 1)
        longer = int(left.min()) + 1
        for token, distance in ends.items():
            left[token] = min(left[token], distance)
        return left, longer

    def _stop_after(self, matched: int, token: int) -> int:
        character = self._stop_tokens.get(token)
        return 0 if character is None else self.stops.step(matched, character)

    def _left_to_end(self, matched: int, age: int) -> int:
        return int(self._ends[age][matched]) if age < len(self._ends) else _NEVER

    def _completions(self) -> list[npt.NDArray[np.int64]]:
        """Count the characters (M) that complete a stop text which began at the last match or before, by its age."""
        stops, count = self.stops, len(self.stops.held)
        following = np.array(
            [[stops.step(state, character) for character in self._stop_tokens.values()] for state in range(count)],
            dtype=np.int64,
        ).reshape(count, -1)
        held, found = np.array(stops.held), np.array(stops.found)
        ends = [np.full(count, _NEVER)]
        for age in range(stops.longest, -1, -1):
            left = np.where(age + 1 <= held[following], 1 + ends[0][following], _NEVER)
            left = np.where(found[following] > 0, np.where(age + 1 <= found[following], 1, _NEVER), left)
            ends.insert(0, left.min(1, initial=_NEVER))
        return ends

    def _distances(self, beside: bool) -> list[list[int]]:
        """Count the characters from each state of the pattern (N) to a match, by that of the stop texts (M).

        No character completes a stop text, unless they are not counted.
        """
        atoms, stops = self.pattern.atoms, self.stops
        count = len(stops.held) if beside else 1
        before: list[list[int]] = [[] for _ in atoms]
        for state, others in enumerate(self.pattern.after):
            for other in others:
                before[other].append(state)
        tokens = self._stop_tokens if beside else {}
        sources: list[list[list[int]]] = []  # by atom and state of the stop texts: those that it is reached from
        for row in self._matches:
            reached: list[list[int]] = [[] for _ in range(count)]
            inside = [character for token, character in tokens.items() if row[token]]
            outside = {0} if int(row.sum()) > len(inside) else set()
            for stop in range(count):
                for following in {stops.step(stop, character) for character in inside} | outside:
                    if not (beside and stops.found[following]):
                        reached[following].append(stop)
            sources.append(reached)
        distances = [[_NEVER] * len(atoms) for _ in range(count)]
        level, distance = [(0, stop) for stop in range(count)], 0
        while level:
            further = list[tuple[int, int]]()
            while level:
                state, stop = level.pop()
                if distances[stop][state] == _NEVER:
                    distances[stop][state] = distance
                    for earlier in before[state]:
                        if atoms[earlier] < 0:
                            level.append((earlier, stop))
                        else:
                            further += [(earlier, source) for source in sources[atoms[earlier]][stop]]
            level, distance = further, distance + 1
        return distances

    def _impossible(self) -> MisuseError:
        """Say why no text matches."""
        if self._distances(False)[0][self.pattern.first] < _NEVER:
            texts = "every text that matches it contains a text that ends the sample"
            named = ", ".join(repr(text) for text in self.stops.texts[:_SHOWN])
            advice = "change the pattern, or what ends it"
            advice += "; with -n, writing goes on after the end of a document" if self.stops.boundary else ""
            return ParameterError(f"{{}} cannot be met: {texts} ({_braced(named)}); {advice}.", "pattern")
        atoms = zip(self.pattern.sources, self._matches, strict=True)
        lacking = sorted((shown(atom.source) for atom, row in atoms if not row.any()), key=self.pattern.source.find)
        named = ", ".join(lacking[:_SHOWN]) + (", ..." if len(lacking) > _SHOWN else "")
        reason = f"no character of the model's vocabulary matches {_braced(named)}"
        return ParameterError(
            f"{{}} cannot be met: {reason}. Use characters that occur in its training text.", "pattern"
        )


class PatternProgress:
    """How far one text has come in a pattern, and the positions that it can go back to.

    `ends` says that what is written matches, and nothing longer can.
    """

    __slots__ = ("_bits", "_earlier", "_matches", "automaton", "ends", "remaining", "states")

    def __init__(self, automaton: PatternAutomaton, prime: str, length: int, depth: int = 0) -> None:
        self.automaton, self.remaining = automaton, length
        self.states = automaton.start(prime, length)
        self.ends = self.matches and self.states.longer > length
        self._matches = int(self.matches)  # up to the last positions, one a bit and the lowest now
        self._bits = (2 << automaton.stops.longest) - 1
        self._earlier = deque[tuple[_States, int]](maxlen=depth)

    @property
    def matches(self) -> bool:
        """Say whether what is written matches."""
        return self.states.age == 0

    def mask(self) -> Mask:
        """Return what may be written next (V)."""
        return self.states.mask(self.remaining)

    def add(self, token: int) -> None:
        """Note a token that was written."""
        earlier = self.states
        states = earlier.following.get(self.automaton.kinds[token]) or self.automaton.follow(earlier, token)
        self._earlier.append((earlier, self._matches))
        self.states = states
        self.remaining -= 1
        if states.age:
            self._matches = self._matches << 1 & self._bits
        else:
            self._matches = (self._matches << 1 | 1) & self._bits
            self.ends = states.longer > self.remaining

    def remove(self, count: int) -> None:
        """Take back the last characters, at most `depth`."""
        for _ in range(count):
            self.states, self._matches = self._earlier.pop()
        self.remaining, self.ends = self.remaining + count, False

    def extended(self, token: int) -> PatternProgress:
        """Return that of the text with one token more, which cannot go back."""
        other = object.__new__(PatternProgress)
        other.automaton, other.remaining, other.states, other.ends = self.automaton, self.remaining, self.states, False
        other._matches, other._bits, other._earlier = self._matches, self._bits, deque(maxlen=0)
        other.add(token)
        return other

    def cut(self, found: int) -> int:
        """Count the characters to drop at the end where a stop text of `found` characters is complete: as many as leave
        the first match that ends at or after its first character."""
        return (self._matches & ((2 << found) - 2)).bit_length() - 1


def _braced(text: str) -> str:
    """Write a text so that `str.format` leaves it as it is."""
    return text.replace("{", "{{").replace("}", "}}")
