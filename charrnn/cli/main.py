"""The command line: options to calls, errors to sentences. stdout is the product, stderr the conversation.
Imports only click until a command runs, so that --help is there at once."""

from __future__ import annotations

import errno
import gc
import io
import os
import shlex
import sys
from typing import Any

import click

from charrnn.cli.console import note
from charrnn.cli.evaluate import evaluate
from charrnn.cli.info import info
from charrnn.cli.options import CONTEXT, spelled
from charrnn.cli.sample import sample
from charrnn.cli.train import train
from charrnn.errors import CharRNNError, MisuseError, ParameterError
from charrnn.version import VERSION

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

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args[0] not in self.commands and os.path.exists(args[0]) and not ctx.resilient_parsing:
            raise MisuseError(f"{args[0]} is no command. To learn from it: charrnn train {shlex.quote(args[0])}")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(encoding="utf-8", errors="backslashreplace", newline="\n")
        try:
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
        except OSError as error:
            if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EIO}:
                raise _Sentence(CharRNNError(f"The output cannot be written ({error.strerror}).")) from error
            if not isinstance(error, BrokenPipeError):
                raise
            # what the interpreter flushes as it ends must not meet the closed pipe again
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise click.exceptions.Exit(0) from None


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
    try:
        cli(prog_name="charrnn")
    finally:
        gc.freeze()  # or the interpreter, as it ends, looks for garbage among all objects of torch: a second or more


for _command in (train, sample, evaluate, info):
    cli.add_command(_command)
