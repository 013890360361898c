"""What to advise for a file that is not in the encoding it was read in: another one, or what to do with some bytes.
Knows bytes; a guess is one in which all of them decode."""

from __future__ import annotations

import codecs
import unicodedata
from collections import Counter
from typing import NamedTuple

# the first of those in which a text reads as well is advised
_LIKELY = (
    *("utf_8", "cp1252", "gb18030", "big5", "cp932", "euc_jp", "cp949", "cp1251", "koi8_r", "cp1250", "iso8859_2"),
    *("cp1254", "cp1257", "cp1253", "cp1255", "cp1256", "cp874", "cp866", "iso8859_5", "mac_roman", "cp850"),
    "big5hkscs",
)
_WESTERN = {"cp1252", "cp1250", "iso8859_2", "cp1254", "cp1257", "mac_roman", "cp850"}  # for Latin letters
_MULTIBYTE = {"utf_8", "gb18030", "big5", "big5hkscs", "cp932", "euc_jp", "cp949"}
# the letters of a language each, beyond a to z
_ALPHABETS = tuple(
    map(
        frozenset,
        (
            *("äöüß", "àâæçéèêëîïôœùûüÿ", "áéíñóúü¿¡ºª", "áâãàçéêíóôõúü", "àèéìíòóù", "áéèëêïóöüç", "æøåéü", "äöåé"),
            *("áðéíóúýþæö", "ąćęłńóśźż", "áčďéěíňóřšťúůýž", "áäčďéíĺľňóôŕšťúýž", "áéíóöőúüű", "ăâîșțşţ", "čćđšž"),
            *("ąčęėįšųūž", "āčēģīķļņšūž", "äõöüšž", "çğıöşüâî\u0307"),
        ),
    )
)
_PUNCTUATION = frozenset("“”„‟‘’‚‹›«»–—…•·°§©®™€£\u00a0")
_USUAL = {"utf_8": "utf-8", "euc_jp": "euc-jp", "koi8_r": "koi8-r", "iso8859_2": "iso8859-2", "iso8859_5": "iso8859-5"}
_WIDE = ("utf-16-le", "utf-16-be")
_SAMPLE = 1 << 20  # bytes kept, from where the first byte is that is not ASCII
_BLOCK = 1 << 16  # bytes of ASCII dropped at a time before that
_EXAMINED = 1 << 15  # bytes of lines that charset-normalizer examines
_GUESSES = 3
FEW = 8  # bytes, from fewer than which a guess is weak
_TEXT_CONTROLS = b"\t\n\v\f\r\x1b"


class Guess(NamedTuple):
    """An encoding by its usual name, how it reads some characters, and whether it is for Latin letters."""

    name: str
    excerpt: str
    western: bool


class EncodingGuess:
    """A guess at the encoding of a file from all its bytes, of which it keeps few.

    Feed it every piece, and from the first byte on that does not decode say so.
    """

    def __init__(self) -> None:
        self._sample = bytearray()
        self._start = 0  # of the sample, in bytes
        self._ascii = True  # so far
        self._gap = False  # whether bytes between the sample and the first that does not decode were not kept
        self._guessed = False
        self._decoders: dict[str, codecs.IncrementalDecoder] = {}  # of the guesses that are left, best first
        self._excerpts: dict[str, str] = {}

    def feed(self, raw: bytes, *, wrong: bool) -> None:
        """Read the next bytes; `wrong` says whether some of them or before them do not decode."""
        for first in range(0, len(raw), _BLOCK):
            self._feed(raw[first : first + _BLOCK], wrong)

    def _feed(self, raw: bytes, wrong: bool) -> None:
        if self._guessed:
            self._check(raw, last=False)
            return
        space = _SAMPLE - len(self._sample)  # bytes
        self._sample += raw[:space]
        if self._ascii and len(self._sample) >= _BLOCK:
            self._ascii = _is_plain(self._sample)
            if self._ascii:
                self._start += len(self._sample)
                self._sample.clear()
        if len(raw) >= space and wrong and not self._gap:
            self._guess()
            self._check(raw[space:], last=False)
        self._gap = self._gap or len(raw) > space

    def finish(self) -> Guess | None:
        """Return the best guess in which every byte decodes, or None."""
        if not self._guessed and not self._gap:
            self._guess()
        self._check(b"", last=True)
        best = next(iter(self._decoders), None)
        return None if best is None else Guess(_USUAL.get(best, best), self._excerpts[best], best in _WESTERN)

    @property
    def binary(self) -> bool:
        """Whether the bytes kept have control characters as no text has."""
        controls = sum(self._sample.count(code) for code in range(32) if code not in _TEXT_CONTROLS)
        return controls > len(self._sample) / 100

    def _guess(self) -> None:
        """Choose the likeliest encodings for the sample, and decode it."""
        self._guessed, sample = True, bytes(self._sample)
        names = _WIDE * (self._start == 0) if 0 in sample else _likeliest(_lines(sample))
        for name in names:
            self._decoders[name] = codecs.getincrementaldecoder(name)()
        self._check(sample, last=False)

    def _check(self, raw: bytes, *, last: bool) -> None:
        """Drop the guesses in which more bytes do not decode, or not to text."""
        for name, decoder in list(self._decoders.items()):
            try:
                text = decoder.decode(raw, last)
            except UnicodeError:
                text = "\0"
            if "\0" in text or (name in _WIDE and _is_noise(text)):
                del self._decoders[name]
            elif name not in self._excerpts:
                self._excerpts[name] = _excerpt(text)


def _is_plain(raw: bytes | bytearray) -> bool:
    return raw.isascii() and 0 not in raw


def _is_noise(text: str) -> bool:
    """Say whether a text looks like other bytes read as UTF-16: many of its characters are not assigned."""
    found = set(text) - set("\t\n\f\r")
    odd = sum(unicodedata.category(character) in {"Cc", "Cn", "Co"} for character in found)
    return odd > len(found) / 50


def _lines(sample: bytes) -> bytes:
    """Return the lines that are not ASCII, which say most; of a text in one line its beginning."""
    complete = sample[: sample.rfind(b"\n") + 1] or sample
    lines = b"\n".join(line for line in complete.split(b"\n") if not line.isascii()) or sample
    return lines if len(lines) <= _EXAMINED else lines[: lines.rfind(b"\n", 0, _EXAMINED) + 1 or _EXAMINED]


def _likeliest(lines: bytes) -> tuple[str, ...]:
    """Rank encodings by how likely their text is."""
    if sum(byte > 127 for byte in lines) < FEW:
        return ("cp1252",)  # two or three characters of another script would be a strange text
    import charset_normalizer  # loaded only here: most texts are in the encoding they are read in

    for cut in range(4):  # a line that was cut may end inside a character
        examined = lines[: len(lines) - cut]
        matches = charset_normalizer.from_bytes(
            examined,
            steps=16,
            chunk_size=1024,
            cp_isolation=list(_LIKELY),
            preemptive_behaviour=False,  # what a text says of its encoding may be wrong
        )
        names = {
            name: (round(match.chaos, 2), not _is_multibyte(examined, name), -match.coherence, _LIKELY.index(name))
            for match in matches
            for name in match.could_be_from_charset  # those that decode it to the same text
            if name in _LIKELY and match.chaos < 0.2
        }
        ranked = sorted(names, key=names.__getitem__)
        if ranked and ranked[0] in _WESTERN:
            shares = {name: _alphabet_share(examined.decode(name)) for name in _WESTERN & set(names)}
            fits = {name: (-share, _LIKELY.index(name)) for name, share in shares.items()}
            ranked = sorted(fits, key=fits.__getitem__)
        if ranked:
            return tuple(ranked[:_GUESSES])
    return ()


def _is_multibyte(lines: bytes, name: str) -> bool:
    """Say whether bytes make characters of several: those of other encodings are seldom valid so.

    Small Cyrillic letters are half-width katakana of one byte in Shift-JIS.
    """
    saved = len(lines) - len(lines.decode(name, "ignore"))
    return name in _MULTIBYTE and saved > 0.4 * sum(byte > 127 for byte in lines)


def _alphabet_share(text: str) -> int:
    """Compute the share of the letters beyond ASCII that one language has, in twentieths: in a wrong encoding no
    language has all."""
    found = Counter(character for character in text.lower() if not character.isascii())
    letters = {character: count for character, count in found.items() if character not in _PUNCTUATION}
    if not letters:
        return 20
    most = max(sum(letters.get(letter, 0) for letter in alphabet) for alphabet in _ALPHABETS)
    return round(20 * most / sum(letters.values()))  # a few letters may be of other languages


def _excerpt(text: str) -> str:
    """Return some characters around the first that is not ASCII."""
    found = next((index for index, character in enumerate(text) if not character.isascii()), 0)
    start = max(text.rfind("\n", 0, found) + 1, found - 12)
    end = text.find("\n", found)
    return text[start : min(found + 12, len(text) if end < 0 else end)].strip()
