"""The pages are true where a machine can tell: settings as generated, links that lead on, commands that parse."""

import importlib.util
import re
import shlex
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pytest

import charrnn
from charrnn.cli.main import cli
from charrnn.config import loading, schema
from charrnn.errors import MisuseError
from tests.conftest import TINY

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("*/*.md")])
PAGES = [page for page in PAGES if not page.parent.name.startswith(".")]
SHELLS = {"", "sh", "bash", "zsh", "shell", "console"}
_FENCE = re.compile(r"^ *(`{3,}|~{3,})\s*(\w*)")
_COMMAND = re.compile(r"(?<![\w./-])(?:[\w./]*/)?charrnn[ \t]+(?=\S)")
_VARIABLE = re.compile(r"\$\{?\w+\}?")


def settings_script() -> ModuleType:
    """Import docs/settings.py, which belongs to no package."""
    specification = importlib.util.spec_from_file_location("settings_script", ROOT / "docs" / "settings.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def blocks(text: str) -> Iterator[str]:
    """Give a page's blocks of shell commands, fenced or indented, with continued lines joined."""
    inside, language, found = "", "", list[str]()
    indented: list[str] = []
    for line in text.splitlines():
        fence = _FENCE.match(line)
        if inside:
            if fence and fence[1].startswith(inside):
                if language in SHELLS:
                    yield "\n".join(found).replace("\\\n", " ")
                inside = ""
            else:
                found.append(line)
        elif fence:
            inside, language, found = fence[1], fence[2], []
        elif line.startswith("    "):
            indented.append(line)
    yield "\n".join(indented).replace("\\\n", " ")


def python_section(text: str) -> str:
    """Give the code under a page's heading Python: fenced as python, or indented."""
    _, _, section = re.split(r"^(## Python.*)$", text, maxsplit=1, flags=re.MULTILINE)
    section = re.split(r"^## ", section, maxsplit=1, flags=re.MULTILINE)[0]
    fenced = re.findall(r"^```python\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    return "\n".join(fenced or [line[4:] for line in section.splitlines() if line.startswith("    ")])


def prose(text: str) -> str:
    """Give a page without its blocks and code spans."""
    kept, inside = list[str](), False
    for line in text.splitlines():
        if _FENCE.match(line):
            inside = not inside
        elif not inside:
            kept.append(line)
    return re.sub(r"`[^`]*`", "", "\n".join(kept))


def commands(block: str) -> Iterator[list[str]]:
    """Give the arguments of every charrnn command in a block, up to a pipe, a redirection or a closing bracket."""
    for match in _COMMAND.finditer(block):
        line = _VARIABLE.sub("1", block[match.end() :].split("\n", 1)[0])
        reader = shlex.shlex(line, posix=True, punctuation_chars="|&;()<>")
        reader.whitespace_split = True
        arguments: list[str] = []
        try:
            for token in reader:
                if set(token) <= set("|&;()<>"):
                    break
                arguments.append(token)
        except ValueError:  # a quote that another program's argument opened, such as -c "... charrnn ..."
            pass
        yield arguments


def problem(arguments: list[str]) -> str | None:
    """Parse a command without running it; gives what is wrong with it."""
    name, rest = arguments[0], arguments[1:]
    if name.startswith("-"):
        known = {"-h", "--help", "--version"}
        return None if name in known else f"no option {name}"
    if name not in cli.commands:
        return f"no command {name}"
    if {"-h", "--help"} & set(rest):
        return None
    try:
        context = cli.commands[name].make_context(name, list(rest))
        if name == "train":
            preset = context.params["config"]
            if preset is not None and Path(preset).suffix not in {".yaml", ".yml"}:
                loading.load(preset)
            loading.load(None, context.params["settings"])
    except (click.ClickException, MisuseError) as error:
        return str(error)
    return None


@cache
def anchors(page: Path) -> set[str]:
    """Give the anchors of a page's headings, as GitHub makes them."""
    heads = re.findall(r"^#+ +(.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def test_settings_page_is_what_the_configuration_says() -> None:
    script = settings_script()
    assert script.PAGE.read_text(encoding="utf-8") == script.page(), "run: python docs/settings.py"


def test_settings_page_knows_every_setting() -> None:
    page = settings_script().page()
    for section, kind in schema.Config.SECTIONS.items():
        for name, field in kind.model_fields.items():
            assert f"`{section}.{name}`" in page
            assert field.description
            assert field.description.endswith(".")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_lead_somewhere(page: Path) -> None:
    lost = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        place, _, anchor = target.partition("#")
        file = (page.parent / place).resolve() if place else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            lost.append(target)
    assert lost == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_in_pages_parse(page: Path) -> None:
    wrong = {}
    for block in blocks(page.read_text(encoding="utf-8")):
        for arguments in commands(block):
            if arguments and (found := problem(arguments)):
                wrong[" ".join(arguments)] = found
    assert wrong == {}


def test_wrong_commands_are_found() -> None:
    block = 'm=$(charrnn train a.txt -s model.cel=gru | tee x)\nfor t in 1; do charrnn sample -t "$t" --topk 3; done'
    first, second = commands(block)
    assert first == ["train", "a.txt", "-s", "model.cel=gru"]
    assert second == ["sample", "-t", "1", "--topk", "3"]
    assert "Did you mean cell?" in str(problem(first))
    assert "--topk" in str(problem(second))
    assert problem(["trian"]) == "no command trian"
    assert problem(["sample", "--until", "$\n", "-k", "100"]) is None


@pytest.mark.parametrize("page", ["README.md", "README.zh-CN.md", "docs/guide.md"])
def test_python_in_pages_runs(page: str, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it stands, but for settings that make training short."""
    train, sizes = charrnn.train, dict(setting.split("=") for setting in TINY)

    def quick(texts: str = "", settings: Mapping[str, Any] | None = None, **keywords: Any) -> charrnn.TrainedRun:
        if "resume" in keywords:
            return train(resume=keywords["resume"], steps=20)
        tiny = {key: value for key, value in sizes.items() if key.startswith("train.") or "init_from" not in keywords}
        return train(texts, {**tiny, **(settings or {})}, **{**keywords, "steps": 10})

    monkeypatch.setattr(charrnn, "train", quick)
    (here / "data").mkdir()
    (here / "data" / "beijing.txt").write_text("我爱北京天安门。\n" * 90, encoding="utf-8")
    (here / "text.txt").rename("letters.txt")
    found: dict[str, Any] = {}
    exec(compile(python_section((ROOT / page).read_text(encoding="utf-8")), page, "exec"), found)
    assert isinstance(found["model"], charrnn.TextModel)
    assert found["run"].reason == "done"


def test_the_guide_shows_every_command() -> None:
    text = (ROOT / "docs" / "guide.md").read_text(encoding="utf-8")
    shown = {arguments[0] for block in blocks(text) for arguments in commands(block) if arguments}
    assert set(cli.commands) <= shown
