"""The longest run of characters that samples share with a text, or that one has twice; exact, in bounded memory.
Runs of one length get names, numbers that are equal for equal runs; the names of two adjacent runs make that of their
concatenation (Karp, Miller and Rosenberg 1972). Shapes: N characters of the text, M of all samples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Codes = npt.NDArray[np.unsignedinteger]
Names = npt.NDArray[np.signedinteger]  # -1: no name
_BLOCK = 1 << 20  # characters of a long text at a time
_MAX_TABLE = 1 << 22  # pairs of names; more are found by binary search
_SEED = 8  # characters of the runs that are looked for first, since few are shared by chance; a power of two
_BITS = 20  # of a hash, so that a table of all of them fits into a cache


class _SampleRuns:
    """The runs of some samples and their names, and how to find them in another text."""

    def __init__(self, samples: Sequence[str]) -> None:
        # a surrogate is no character, so that no run extends from one sample into the next
        self.text = "\ud800".join(samples)
        codes = _codes(self.text)
        self.alphabet, names = np.unique(codes, return_inverse=True)
        names[codes == 0xD800] = -1
        self.names: dict[int, Names] = {1: names}  # (M) by length, of the run from each position on
        self._pairs: dict[tuple[int, int], tuple[Names, int, Names | None]] = {}

    def seeds(self, codes: Codes) -> npt.NDArray[np.intp]:
        """Return the positions where a text (N code points) may have a run of _SEED characters of the samples: all
        where it has one, and few others."""
        seen = np.zeros(1 << _BITS, dtype=bool)
        seen[_hashes(_codes(self.text))] = True
        return np.flatnonzero(seen[_hashes(codes)])

    def at(self, codes: Codes, positions: npt.NDArray[np.intp], length: int) -> Names:
        """Return the names of a text's runs at the given positions, whose length is a power of two."""
        if length > 1:
            half = length // 2
            return self.join(half, half, self.at(codes, positions, half), self.at(codes, positions + half, half))
        inside = positions < len(codes)
        characters = codes[np.where(inside, positions, 0)]
        found = np.minimum(self.alphabet.searchsorted(characters), len(self.alphabet) - 1)
        return np.where(inside & (self.alphabet[found] == characters), found, -1)

    def join(self, left: int, right: int, left_names: Names, right_names: Names) -> Names:
        """Return the names of concatenated runs, whose parts have the lengths `left` and `right`."""
        keys, base, table = self._keys(left, right)
        joined = np.full(len(left_names), -1)
        both = np.flatnonzero((left_names >= 0) & (right_names >= 0))
        pairs = left_names[both] * base + right_names[both]
        if table is not None:
            joined[both] = table[pairs]
        elif len(keys):
            found = np.minimum(keys.searchsorted(pairs), len(keys) - 1)
            joined[both] = np.where(keys[found] == pairs, found, -1)
        return joined

    def _keys(self, left: int, right: int) -> tuple[Names, int, Names | None]:
        """Name the samples' runs of length `left` + `right` by the rank of their key, left name * base + right name;
        return the keys, the base, and a table from keys to names where it is small."""
        if (left, right) not in self._pairs:
            right_names = self.names[right][left:]
            left_names = self.names[left][: len(right_names)]
            count, base = (int(self.names[length].max(initial=0)) + 1 for length in (left, right))
            both = (left_names >= 0) & (right_names >= 0)
            keys, names = np.unique(left_names[both] * base + right_names[both], return_inverse=True)
            self.names[left + right] = np.full(len(left_names), -1)
            self.names[left + right][both] = names
            table = None
            if count * base <= _MAX_TABLE:
                table = np.full(count * base, -1)
                table[keys] = np.arange(len(keys))
            self._pairs[left, right] = keys, base, table
        return self._pairs[left, right]

    def run(self, length: int, name: int) -> str:
        """Return the run of a name."""
        start = int(np.flatnonzero(self.names[length] == name)[0])
        return self.text[start : start + length]


def longest_shared(codes: Codes, samples: Sequence[str]) -> str:
    """Return the longest run that a text (N code points) shares with any of the samples; of ties, the first in it."""
    runs, best = _SampleRuns(samples), ""
    longest = max((len(sample) for sample in samples), default=0)
    for seed in (_SEED, 1):
        for start in range(0, len(codes) if longest >= seed else 0, _BLOCK):
            found = _shared(runs, codes[start : start + _BLOCK + longest], seed)
            best = found if len(found) > len(best) else best
        if best:
            break
    return best


def _shared(runs: _SampleRuns, codes: Codes, seed: int) -> str:
    """Return the longest shared run of at least `seed` characters, a power of two; "" if there is none.

    Doubles the length while a shared run has it, then extends it by smaller and smaller powers of two.
    """
    positions = np.arange(len(codes)) if seed == 1 else runs.seeds(codes)
    names, length = runs.at(codes, positions, seed), seed
    powers: dict[int, Names] = {}  # (N) by length, names of the runs from each position on
    while (found := names >= 0).any():
        positions, names = positions[found], names[found]
        powers[length] = np.full(len(codes), -1, dtype=np.int32)
        powers[length][positions] = names
        reached, longest = (positions, names), length
        names = runs.join(length, length, names, _at(powers[length], positions + length))
        length *= 2
    if not powers:
        return ""
    (positions, names), length = reached, longest
    step = length
    while step > 1:
        step //= 2
        ends = positions + length
        extensions = _at(powers[step], ends) if step in powers else runs.at(codes, ends, step)
        joined = runs.join(length, step, names, extensions)
        if (found := joined >= 0).any():
            positions, names, length = positions[found], joined[found], length + step
    return runs.run(length, int(names[0]))


def _at(names: Names, positions: npt.NDArray[np.intp]) -> Names:
    inside = positions < len(names)
    return np.where(inside, names[np.where(inside, positions, 0)], -1)


def _hashes(codes: Codes) -> npt.NDArray[np.uint32]:
    """Hash every run of _SEED characters into _BITS bits (N - _SEED + 1)."""
    hashes, length, factor = codes.astype(np.uint32), 1, 0x9E3779B1
    while length < _SEED:
        hashes = hashes[:-length] * np.uint32(factor) + hashes[length:]
        factor, length = factor * factor & 0xFFFFFFFF, 2 * length
    return np.asarray((hashes * np.uint32(0x85EBCA6B)) >> np.uint32(32 - _BITS))


def longest_repeated(text: str) -> str:
    """Return the longest run that a text has twice, the first of ties; the two may overlap."""
    codes = _codes(text)
    names = np.unique(codes, return_inverse=True)[1]
    powers, length = {0: names[:0], 1: names}, 1
    if len(names) == 0 or names.max() + 1 == len(names):
        return ""
    while (joined := _join_repeated(names, names, length)) is not None:
        names, length = joined, 2 * length
        powers[length] = names
    step = length
    while step > 1:
        step //= 2
        joined = _join_repeated(names, powers[step], length)
        if joined is not None:
            names, length = joined, length + step
    counts = np.bincount(names)
    start = int(np.argmax(counts[names] > 1))
    return text[start : start + length]


def _join_repeated(left: Names, right: Names, length: int) -> Names | None:
    """Return the names of runs concatenated from one of `length` and another; None if no two are equal."""
    right = right[length:]
    if not len(right):
        return None
    found, joined = np.unique(left[: len(right)] * (int(right.max()) + 1) + right, return_inverse=True)
    return joined if len(found) < len(joined) else None


def _codes(text: str) -> Codes:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
