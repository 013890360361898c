"""The command line: options to calls, errors to sentences. stdout is the product, stderr the conversation.
Imports only click until a command runs, so that --help is there at once."""

from __future__ import annotations

import contextlib
import errno
import gc
import io
import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from charrnn.cli.console import note
from charrnn.cli.evaluate import evaluate
from charrnn.cli.export import export
from charrnn.cli.info import info
from charrnn.cli.inspect import inspect
from charrnn.cli.options import CONTEXT, spelled
from charrnn.cli.sample import sample
from charrnn.cli.train import train
from charrnn.errors import CharRNNError, MisuseError, ParameterError
from charrnn.showable import showable_message
from charrnn.version import VERSION

_UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EBADF, errno.EFBIG}
_COMPLETION = """\b
Shell completion of options, models and presets:
  bash  eval "$(_CHARRNN_COMPLETE=bash_source charrnn)"     in ~/.bashrc
  zsh   eval "$(_CHARRNN_COMPLETE=zsh_source charrnn)"      in ~/.zshrc
  fish  _CHARRNN_COMPLETE=fish_source charrnn | source      in ~/.config/fish/config.fish
"""


class _Sentence(click.ClickException):
    """A charrnn error on its way to the terminal."""

    def __init__(self, error: CharRNNError) -> None:
        super().__init__(error.spelled(spelled) if isinstance(error, ParameterError) else str(error))
        self.exit_code = error.exit_code  # type: ignore[misc]

    def show(self, file: Any = None) -> None:
        note(f"Error: {self.format_message()}", fg="red")


class _Commands(click.Group):
    """Turn errors into sentences, Ctrl-C into exit code 130, and a closed pipe into a quiet end."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)  # in the order in which they are used

    def make_context(self, *arguments: Any, **settings: Any) -> click.Context:
        with _showable_usage():
            return super().make_context(*arguments, **settings)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args[0] not in self.commands and os.path.exists(args[0]) and not ctx.resilient_parsing:
            raise MisuseError(f"{args[0]} is no command. To learn from it: charrnn train {shlex.quote(args[0])}")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(encoding="utf-8", errors="backslashreplace", newline="\n")
        try:
            _check_folder()
            with _showable_usage():
                result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except CharRNNError as error:
            raise _Sentence(error) from error
        except KeyboardInterrupt:
            click.echo("Interrupted.", err=True)
            raise click.exceptions.Exit(130) from None
        except (RuntimeError, MemoryError) as error:
            if not _is_out_of_memory(error):
                raise
            sentence = "There is not enough memory. Close other programs, ask for less, or name another --device."
            raise _Sentence(CharRNNError(sentence)) from error
        except BrokenPipeError:
            # what the interpreter flushes as it ends must not meet the closed pipe again
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise click.exceptions.Exit(0) from None


@contextlib.contextmanager
def _showable_usage() -> Iterator[None]:
    """Let click's own messages, which repeat what was typed, send no command to the terminal."""
    try:
        yield
    except click.UsageError as error:
        error.message = showable_message(error.message)  # type: ignore[misc,unused-ignore]
        raise


def _check_folder() -> None:
    """Raise CharRNNError where the current folder was removed: torch's libraries end the process there."""
    try:
        Path.cwd()
    except OSError as error:
        raise CharRNNError(f"The current folder is gone ({error.strerror}). Change to another one with cd.") from error


def _is_out_of_memory(error: RuntimeError | MemoryError) -> bool:
    if isinstance(error, MemoryError):
        return True
    if "torch" not in sys.modules:
        return False
    from charrnn import device

    return device.is_out_of_memory(error)


@click.group(cls=_Commands, context_settings=CONTEXT, epilog=_COMPLETION)
@click.version_option(VERSION, message="charrnn %(version)s")
def cli() -> None:
    """Learn any text one character at a time with a recurrent network, and write more like it.

    \b
    Example:
      charrnn train poems.txt
      charrnn sample --prime 我爱北京
      charrnn evaluate other.txt
    """


def entry() -> None:
    """Run the command line as a program."""
    _open_closed_streams()
    try:
        cli(prog_name="charrnn")
    except OSError as error:
        if error.errno not in _UNWRITABLE:
            raise
        note(f"Error: The output cannot be written ({error.strerror}).", fg="red")
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left is not flushed at the end
        sys.exit(1)
    finally:
        gc.freeze()  # or the interpreter, as it ends, looks for garbage among all objects of torch: a second or more


def _open_closed_streams() -> None:
    """Open what the shell closed (<&-, >&-, 2>&-), lest the next file take its number and messages be written into it.

    Standard input is empty then, writing to standard output fails, and messages are lost.
    """
    for number, (name, mode, flags) in enumerate(
        (("stdin", "r", os.O_RDONLY), ("stdout", "w", os.O_RDONLY), ("stderr", "w", os.O_WRONLY))
    ):
        if getattr(sys, name) is None:
            opened = os.open(os.devnull, flags)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False))
        elif number and hasattr(os, "get_blocking"):
            # a pipe that another program made non-blocking would lose what does not fit into it
            with contextlib.suppress(OSError):
                os.set_blocking(number, True)


for _command in (train, sample, evaluate, inspect, info, export):
    cli.add_command(_command)
