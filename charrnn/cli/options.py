"""Options of the command line: grouped in --help, completed by the shell, checked against each other."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import click

from charrnn.errors import MisuseError
from charrnn.showable import shown

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class _Count(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """A whole number of at least 0 that fits in 64 bits."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        digits = str(value).strip()
        if not digits.isascii() or not digits.isdigit():
            self.fail(f"'{shown(value)}' is not a whole number of 0 or more.", param, ctx)
        if len(digits) > 19 or int(digits) >= 2**63:
            self.fail("this number is too large; 18 digits fit.", param, ctx)
        return int(digits)


COUNT = _Count()
_ESCAPES = {"n": "\n", "t": "\t", "\\": "\\"}
Rule = tuple[str, str, str]
Function = TypeVar("Function", bound=Callable[..., Any])
_ATTACHED = "\0"  # before a value that begins with a dash; no argument of a program can contain it
_SHORT = {"prime": "-p", "length": "-n", "temperature": "-t", "num": "-k"}


class GroupedOption(click.Option):
    """An option that stands under a heading of its own group in --help."""

    def __init__(self, *names: Any, group: str, **settings: Any) -> None:
        super().__init__(*names, **settings)
        self.group = group
        self.value_may_be_missing = not settings.get("is_flag", True)

    def type_cast_value(self, ctx: click.Context, value: Any) -> Any:
        return super().type_cast_value(ctx, value.removeprefix(_ATTACHED) if isinstance(value, str) else value)


class Command(click.Command):
    """A command whose --help lists options under headings, in the order in which they are declared.

    `stray` is what to say of a word that belongs to no option, whose place in it is {}.
    """

    def __init__(self, *names: Any, stray: str = "", **settings: Any) -> None:
        super().__init__(*names, **settings)
        self.stray, self.allow_extra_args = stray, bool(stray)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        # click takes a value with a dash for the next option where a value may be missing, even behind "="
        names = {name for option in self.params if getattr(option, "value_may_be_missing", 0) for name in option.opts}
        marked = [arg.replace("=-", f"={_ATTACHED}-", 1) if arg.partition("=")[0] in names else arg for arg in args]
        words = super().parse_args(ctx, marked)
        if words and self.stray and not ctx.resilient_parsing:
            raise MisuseError(self.stray.format(shlex.quote(" ".join(words))))
        return words

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


def network_option(group: str) -> Callable[[Function], Function]:
    """Declare --network."""
    return option(group, "--network", "The network of a mixture alone, without its counts.", is_flag=True)


def encoding_option(help: str) -> Callable[[Function], Function]:
    """Declare --encoding."""
    return option("Input", "--encoding", f"{help} [default: utf-8]", metavar="NAME")


def encoding_errors_option() -> Callable[[Function], Function]:
    """Declare --encoding-errors, which is None where it is left out."""
    choice = click.Choice(["strict", "replace", "skip"])
    help = "Bytes not in the encoding: strict stops, replace puts U+FFFD, skip drops them. [default: strict]"
    return option("Input", "--encoding-errors", help, type=choice)


def device_option(auto: str = "CUDA if it works, else the CPU") -> Callable[[Function], Function]:
    """Declare --device, and say what auto is."""
    help = f"auto ({auto}), cpu, cuda, cuda:N or mps. [default: auto]"
    return option("Device", "--device", help, default="auto", metavar="NAME", callback=_check_device)


def _check_device(_: click.Context, __: click.Parameter, name: str) -> str:
    """Refuse what is no device anywhere; torch, which takes seconds to load, says which of them are here."""
    if not re.fullmatch(r"auto|(cpu|cuda|mps)(:\d+)?", name):
        raise MisuseError(f"{name} is not a device; choose auto, cpu, cuda, cuda:N or mps.")
    return name


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


def spelled(name: str) -> str:
    """Spell a parameter in all ways in which its option is typed."""
    return f"{_SHORT[name]}/{dashed(name)}" if name in _SHORT else dashed(name)


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
            raise MisuseError(f"{spelled(name)} is {value}; it must be at least {least}.")


def check_rate(name: str, rate: float | None) -> None:
    """Raise MisuseError for a rate that is negative or infinite."""
    if rate is not None and not 0 <= rate < float("inf"):
        raise MisuseError(f"{name} is {rate:g}; it must be 0 or more.")
