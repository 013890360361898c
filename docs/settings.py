"""Write docs/settings.md, the page of every setting, from the configuration's own field descriptions.

python docs/settings.py            writes the page
python docs/settings.py --check    says whether it is up to date (exit code 1 if not)
"""

import sys
from pathlib import Path
from typing import Any

import yaml

from charrnn.config import loading
from charrnn.config.schema import Config

PAGE = Path(__file__).with_name("settings.md")
OPENING = """\
# Every setting

<!-- Made by `python docs/settings.py` from charrnn/config/schema.py: change it there. -->

A setting is written in a YAML file, under its section,

```yaml
model:
  cell: gru
  hidden_size: 384
```

or on the command line, where it wins over the file: `charrnn train poems.txt -c mine.yaml -s model.hidden_size=384`.
A file says only what differs from the defaults below. `-c` takes a file or the name of a preset.

`auto` means: chosen when the run begins, from the size of the text, the device and the time given. What was chosen is
written into the run's `config.yaml`, so that this file reproduces the run. `null` means off, or left to others.
"""


def page() -> str:
    """Give the whole page."""
    parts = [OPENING]
    for section, kind in Config.SECTIONS.items():
        parts.append(
            f"\n## {section}\n\n{kind.__doc__}\n\n"
            "| setting | default | allowed values | what it does |\n|---|---|---|---|\n"
        )
        for name, field in kind.model_fields.items():
            cells = (
                f"`{section}.{name}`",
                f"`{shown(field.default)}`",
                loading.allowed_values(section, name),
                field.description,
            )
            parts.append("| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |\n")
    parts.append("\n## Presets\n\nEach is a file of [configs/](../configs), named by `-c`.\n\n")
    parts += [f"- `{name}`: {settings(name)}\n" for name in loading.presets()]
    return "".join(parts)


def settings(preset: str) -> str:
    """List what a preset sets, as -s would."""
    tree = yaml.safe_load((loading.PRESETS / f"{preset}.yaml").read_text(encoding="utf-8"))
    return ", ".join(
        f"`{section}.{name}={shown(value)}`" for section, values in tree.items() for name, value in values.items()
    )


def shown(value: Any) -> str:
    """Write a default as one would in YAML."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(list(value)) if isinstance(value, (list, tuple)) else str(value)


def main(arguments: list[str]) -> int:
    """Write or check the page."""
    if arguments not in ([], ["--check"]):
        print(__doc__, file=sys.stderr)
        return 2
    if not arguments:
        PAGE.write_text(page(), encoding="utf-8", newline="\n")
        return 0
    if PAGE.is_file() and PAGE.read_text(encoding="utf-8") == page():
        return 0
    print(f"{PAGE.name} is out of date: run python docs/settings.py", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
