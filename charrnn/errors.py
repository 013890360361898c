"""Errors that the user can act on: each message says what is wrong, where, and what to do next.
Only the command line prints them."""

from __future__ import annotations


class CharRNNError(Exception):
    """An error to show to the user, without a traceback."""

    exit_code = 1


class MisuseError(CharRNNError):
    """An invalid option or setting; the message says which values are valid."""

    exit_code = 2
