"""What went wrong, in one sentence for the person typing: what, where, what to do next.
Raised where the user can act; only the command line prints it."""

from __future__ import annotations


class CharRNNError(Exception):
    """Say in one sentence what is wrong, where, and what to do next."""

    exit_code = 1


class MisuseError(CharRNNError):
    """Say which option or setting cannot be taken, and what can."""

    exit_code = 2
