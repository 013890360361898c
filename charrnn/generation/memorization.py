"""The longest run of characters that texts share, or that one has twice; exact, and in bounded memory.
Runs of one length get names, equal runs equal ones; those of two shorter runs make the name of both together (Karp,
Miller and Rosenberg 1972). Shapes: N characters of the text, M of all samples, K names."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Codes = npt.NDArray[np.unsignedinteger]
Names = npt.NDArray[np.signedinteger]  # -1: no name
_BLOCK = 1 << 20  # characters of a long text at a time
_DENSE = 1 << 22  # pairs of names that are looked up in a table, at most
_SEED = 8  # characters of a run that is looked for first: texts have few of this length in common; a power of two
_BITS = 20


class _Runs:
    """The runs of some samples, and the names of those that another text has as well."""

    def __init__(self, samples: Sequence[str]) -> None:
        # no run goes on from one sample to the next: a surrogate is no character
        self.text = "\ud800".join(samples)
        codes = _codes(self.text)
        self.alphabet, names = np.unique(codes, return_inverse=True)
        names[codes == 0xD800] = -1
        self.named: dict[int, Names] = {1: names}  # by length, at each place of the samples (M)
        self._pairs: dict[tuple[int, int], tuple[Names, int, Names | None]] = {}

    def seeds(self, codes: Codes) -> npt.NDArray[np.intp]:
        """Find where a text (N code points) may have a run of SEED characters of the samples: everywhere where it has,
        and at few other places."""
        known = np.zeros(1 << _BITS, dtype=bool)
        known[_hashes(_codes(self.text))] = True
        return np.flatnonzero(known[_hashes(codes)])

    def at(self, codes: Codes, places: npt.NDArray[np.intp], length: int) -> Names:
        """Name runs of a power of two that begin at places of a text."""
        if length > 1:
            half = length // 2
            return self.join(half, half, self.at(codes, places, half), self.at(codes, places + half, half))
        inside = places < len(codes)
        asked = codes[np.where(inside, places, 0)]
        found = np.minimum(self.alphabet.searchsorted(asked), len(self.alphabet) - 1)
        return np.where(inside & (self.alphabet[found] == asked), found, -1)

    def join(self, left: int, right: int, one: Names, other: Names) -> Names:
        """Name runs made of a left and a right one, whose lengths and names (...) are given."""
        keys, base, table = self._pair(left, right)
        joined = np.full(len(one), -1)
        both = np.flatnonzero((one >= 0) & (other >= 0))
        asked = one[both] * base + other[both]
        if table is not None:
            joined[both] = table[asked]
        elif len(keys):
            places = np.minimum(keys.searchsorted(asked), len(keys) - 1)
            joined[both] = np.where(keys[places] == asked, places, -1)
        return joined

    def _pair(self, left: int, right: int) -> tuple[Names, int, Names | None]:
        """Name the samples' own runs of a length; gives the pairs of names that they are made of, as numbers."""
        if (left, right) not in self._pairs:
            other = self.named[right][left:]
            one = self.named[left][: len(other)]
            most, base = (int(self.named[length].max(initial=0)) + 1 for length in (left, right))
            both = (one >= 0) & (other >= 0)
            keys, names = np.unique(one[both] * base + other[both], return_inverse=True)
            self.named[left + right] = np.full(len(one), -1)
            self.named[left + right][both] = names
            table = None
            if most * base <= _DENSE:
                table = np.full(most * base, -1)
                table[keys] = np.arange(len(keys))
            self._pairs[left, right] = keys, base, table
        return self._pairs[left, right]

    def run(self, length: int, name: int) -> str:
        """Give the run of a name."""
        place = int(np.flatnonzero(self.named[length] == name)[0])
        return self.text[place : place + length]


def longest_shared(codes: Codes, samples: Sequence[str]) -> str:
    """Find the longest run that any of the samples has of a text (N code points), the first of equals there."""
    runs, best = _Runs(samples), ""
    longest = max((len(sample) for sample in samples), default=0)
    for seed in (_SEED, 1):
        for start in range(0, len(codes) if longest >= seed else 0, _BLOCK):
            found = _shared(runs, codes[start : start + _BLOCK + longest], seed)
            best = found if len(found) > len(best) else best
        if best:
            break
    return best


def _shared(runs: _Runs, codes: Codes, seed: int) -> str:
    """Find the longest run of at least `seed` characters, a power of two; "" if there is none."""
    places = np.arange(len(codes)) if seed == 1 else runs.seeds(codes)
    names, length = runs.at(codes, places, seed), seed
    powers: dict[int, Names] = {}  # names (N) of runs from each place on
    while (found := names >= 0).any():  # twice as long as long as there is one
        places, names = places[found], names[found]
        powers[length] = np.full(len(codes), -1, dtype=np.int32)
        powers[length][places] = names
        reached, longest = (places, names), length
        names = runs.join(length, length, names, _named(powers[length], places + length))
        length *= 2
    if not powers:
        return ""
    (places, names), length = reached, longest
    step = length
    while step > 1:  # and then by smaller and smaller steps
        step //= 2
        following = places + length
        others = _named(powers[step], following) if step in powers else runs.at(codes, following, step)
        joined = runs.join(length, step, names, others)
        if (found := joined >= 0).any():
            places, names, length = places[found], joined[found], length + step
    return runs.run(length, int(names[0]))


def _named(power: Names, places: npt.NDArray[np.intp]) -> Names:
    inside = places < len(power)
    return np.where(inside, power[np.where(inside, places, 0)], -1)


def _hashes(codes: Codes) -> npt.NDArray[np.uint32]:
    """Hash every run of SEED characters (N - SEED + 1), into so few bits that a table of all stays in a cache."""
    hashes, length, factor = codes.astype(np.uint32), 1, 0x9E3779B1
    while length < _SEED:
        hashes = hashes[:-length] * np.uint32(factor) + hashes[length:]
        factor, length = factor * factor & 0xFFFFFFFF, 2 * length
    return np.asarray((hashes * np.uint32(0x85EBCA6B)) >> np.uint32(32 - _BITS))


def longest_repeated(text: str) -> str:
    """Find the longest run that a text has twice, the first of equals; the two may overlap."""
    codes = _codes(text)
    names = np.unique(codes, return_inverse=True)[1]
    powers, length = {0: names[:0], 1: names}, 1
    if len(names) == 0 or names.max() + 1 == len(names):
        return ""
    while (joined := _twice(names, names, length)) is not None:
        names, length = joined, 2 * length
        powers[length] = names
    step = length
    while step > 1:
        step //= 2
        joined = _twice(names, powers[step], length)
        if joined is not None:
            names, length = joined, length + step
    counts = np.bincount(names)
    place = int(np.argmax(counts[names] > 1))
    return text[place : place + length]


def _twice(names: Names, others: Names, length: int) -> Names | None:
    """Name runs made of one of `length` and another; None if no two are equal."""
    others = others[length:]
    if not len(others):
        return None
    found, joined = np.unique(names[: len(others)] * (int(others.max()) + 1) + others, return_inverse=True)
    return joined if len(found) < len(joined) else None


def _codes(text: str) -> Codes:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
