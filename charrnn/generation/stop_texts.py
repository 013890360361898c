"""The texts that end a sample, found while it grows by one character after the other.
Knows characters, not tokens or models."""

from __future__ import annotations

from collections.abc import Sequence

from charrnn.config.limits import FILE_BOUNDARY
from charrnn.data.decoding import check_characters
from charrnn.errors import MisuseError

Until = str | Sequence[str] | None  # the texts that end a sample


class StopTexts:
    """Finds any of several texts, by the automaton of Aho and Corasick (1975): its state is the longest end of what was
    read so far that begins one of them; 0 where none does.

    `texts` are those to find. `held` is the length of this end by state, and `found` that of the longest text which is
    complete with it, or 0.
    The `boundary` of documents is one more text, unless it is empty.
    Raises MisuseError for an empty text, CharRNNError for one with a lone surrogate.
    """

    def __init__(self, until: Until, boundary: str = "") -> None:
        self.boundary = boundary
        self.held, self.found = [0], [0]
        self.texts: tuple[str, ...] = ()
        self._document_ends = set[int]()  # states in which the boundary is complete, and no other text
        self._next: dict[tuple[int, str], int] = {}
        self._shorter = [0]  # by state, the one of the next shorter end
        texts = [until] if isinstance(until, str) else until or []
        for text in texts:
            if not text:
                raise MisuseError("until is empty; name the text to stop before, or leave it out.")
            check_characters(text, "until")
            self._add(text)
        if boundary and boundary not in texts:
            self._document_ends.add(self._add(boundary))
        for (before, character), state in sorted(self._next.items(), key=lambda item: self.held[item[1]]):
            if before:
                self._shorter[state] = shorter = self.step(self._shorter[before], character)
                if not self.found[state]:
                    self.found[state] = self.found[shorter]
                    if shorter in self._document_ends:
                        self._document_ends.add(state)
        self.longest = max(self.held)

    def step(self, state: int, character: str) -> int:
        """Return the state after one more character."""
        while state and (state, character) not in self._next:
            state = self._shorter[state]
        return self._next.get((state, character), 0)

    def after(self, text: str) -> int:
        """Return the state after a text."""
        state = 0
        for character in text[max(0, len(text) - self.longest) :]:
            state = self.step(state, character)
        return state

    def shown(self, character: str) -> str:
        """Return a character as it is written: the boundary of files, past which writing goes on, as a newline."""
        return "\n" if character == FILE_BOUNDARY != self.boundary else character

    def ends_document(self, state: int) -> bool:
        """Say whether what is complete is the boundary; a text that the caller names as well is the caller's."""
        return state in self._document_ends

    def completes_document(self, state: int) -> bool:
        """Say whether the last character of the boundary would complete it."""
        return self.boundary != "" and self.ends_document(self.step(state, self.boundary[-1]))

    def _add(self, text: str) -> int:
        """Add the states of a text; return the last."""
        self.texts += (text,)
        state = 0
        for length, character in enumerate(text, 1):
            if (state, character) not in self._next:
                self._next[state, character] = len(self.held)
                self.held.append(length)
                self.found.append(0)
                self._shorter.append(0)
            state = self._next[state, character]
        self.found[state] = len(text)
        return state
