"""Errors that the user can act on: each message says what is wrong, where, and what to do next.
Only the command line prints them."""

from __future__ import annotations

from collections.abc import Callable


class CharRNNError(Exception):
    """An error to show to the user, without a traceback."""

    exit_code = 1


class MisuseError(CharRNNError):
    """An invalid option or setting; the message says which values are valid."""

    exit_code = 2


class ParameterError(MisuseError):
    """A parameter with an invalid value. Each {} of the sentence is the name of one, which the command line spells as
    its option."""

    def __init__(self, sentence: str, *names: str) -> None:
        super().__init__(sentence.format(*names))
        self.sentence, self.names = sentence, names

    def spelled(self, spell: Callable[[str], str]) -> str:
        """Return the message with each name spelled in another way."""
        return self.sentence.format(*map(spell, self.names))
