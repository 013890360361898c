"""Options of the command line: grouped in --help, completed by the shell, checked against each other."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import click

from charrnn.errors import MisuseError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class _Count(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """A whole number from 0 to 2^63 - 1."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        digits = str(value).strip()
        if not digits.isascii() or not digits.isdigit() or len(digits) > 19 or int(digits) >= 2**63:
            self.fail(f"{value!r} is not a whole number from 0 to {2**63 - 1}.", param, ctx)
        return int(digits)


COUNT = _Count()
_ESCAPES = {"n": "\n", "t": "\t", "\\": "\\"}
Rule = tuple[str, str, str]
Function = TypeVar("Function", bound=Callable[..., Any])


class GroupedOption(click.Option):
    """An option that stands under a heading of its own group in --help."""

    def __init__(self, *names: Any, group: str, **settings: Any) -> None:
        super().__init__(*names, **settings)
        self.group = group


class Command(click.Command):
    """A command whose --help lists options under headings, in the order in which they are declared."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        groups: dict[str, list[tuple[str, str]]] = {}
        for option in self.get_params(ctx):
            record = option.get_help_record(ctx)
            if record is not None and isinstance(option, click.Option):
                groups.setdefault(getattr(option, "group", "Help"), []).append(record)
        for group, records in sorted(groups.items(), key=lambda item: item[0] == "Help"):
            with formatter.section(group):
                formatter.write_dl(records)


def option(group: str, names: str, help: str, **settings: Any) -> Callable[[Function], Function]:
    """Declare an option of a group; `names` stand with spaces between."""
    return click.option(*names.split(), cls=GroupedOption, group=group, help=help, **settings)


def model_option(group: str, help: str, *, multiple: bool = False) -> Callable[[Function], Function]:
    """Declare -m, completed with the names of the runs under ./checkpoints."""
    names = "-m --model" + " models" * multiple
    return option(group, names, help, multiple=multiple, metavar="MODEL", shell_complete=complete_runs)


def encoding_option(help: str) -> Callable[[Function], Function]:
    """Declare --encoding."""
    return option("Input", "--encoding", f"{help} [default: utf-8]", default="utf-8", metavar="NAME")


def device_option(auto: str = "CUDA if it works, else the CPU") -> Callable[[Function], Function]:
    """Declare --device, and say what auto is."""
    help = f"auto ({auto}), cpu, cuda, cuda:N or mps. [default: auto]"
    return option("Device", "--device", help, default="auto", metavar="NAME")


def complete_presets(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the name of a preset, or of a file."""
    from charrnn.config import loading

    return _completed(sorted(loading.presets()), incomplete)


def complete_files(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the name of a file."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(incomplete, type="file")]


def complete_runs(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the name of a run under ./checkpoints, or of a file."""
    from charrnn.checkpoints import run_dir

    return _completed((run.name for run in run_dir.find_runs()), incomplete)


def _completed(names: Iterable[str], incomplete: str) -> list[CompletionItem]:
    from click.shell_completion import CompletionItem

    found = [CompletionItem(name) for name in names if name.startswith(incomplete)]
    return found or [CompletionItem(incomplete, type="file")]


def check_together(given: Mapping[str, Any], excludes: Iterable[Rule], needs: Iterable[Rule] = ()) -> None:
    """Raise MisuseError where an option stands beside others that it excludes, or without one that it needs.

    `given` are the values by parameter name; None and False stand for an option that was left out. A rule is an option,
    the others by name with spaces between, and what to say.
    """
    on = {name for name, value in given.items() if value is not None and value is not False}
    for name, others, reason in excludes:
        named = [dashed(other) for other in others.split() if other in on]
        if name in on and named:
            raise MisuseError(f"{reason}; leave out {', '.join(named)}.")
    for name, others, sentence in needs:
        if name in on and not on & set(others.split()):
            raise MisuseError(sentence)


def dashed(name: str) -> str:
    """Spell a parameter as its option."""
    return "--" + name.removeprefix("as_").replace("_", "-")


def unescaped(name: str, text: str) -> str:
    """Read \\n, \\t, \\\\ and \\uXXXX of a text; two surrogates are one character, as in JSON.

    Raises MisuseError for another character after a backslash.
    """

    def read(match: re.Match[str]) -> str:
        escape = match[1]
        if len(escape) == 5:
            return chr(int(escape[1:], 16))
        if escape not in _ESCAPES:
            raise MisuseError(f"{name} has \\{escape}, which is no escape; -e knows \\n, \\t, \\\\ and \\uXXXX.")
        return _ESCAPES[escape]

    found = re.sub(r"\\(u[0-9a-fA-F]{4}|.|$)", read, text, flags=re.DOTALL)
    return found.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


def check_at_least(least: int, **values: int | None) -> None:
    """Raise MisuseError for an option below a least value."""
    for name, value in values.items():
        if value is not None and value < least:
            raise MisuseError(f"{dashed(name)} is {value}; it must be at least {least}.")


def check_rate(name: str, rate: float | None) -> None:
    """Raise MisuseError for a rate that is negative or infinite."""
    if rate is not None and not 0 <= rate < float("inf"):
        raise MisuseError(f"{name} is {rate:g}; it must be 0 or more.")
