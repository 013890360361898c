"""A page with the charts and the views of tables, without a model: they need little of `app`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from charrnn import inspection

PAGE = Path(inspection.__file__).with_name("page")
VIEWS = ("reach", "saliency", "gates", "errors")
APP = """
const app = (() => {
  const filled = (node, attributes, children) => {
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.append(...children);
    return node;
  };
  const views = [];
  return {
    asked: [],
    element: (tag, attributes, ...children) => filled(document.createElement(tag), attributes, children),
    svg: (tag, attributes, ...children) =>
      filled(document.createElementNS('http://www.w3.org/2000/svg', tag), attributes, children),
    label: (character) => ({ ' ': '␣', '\\n': '⏎' })[character] ?? character,
    views: { add: (view) => views.push(view) },
    showUnit: (unit) => app.asked.push(unit),
    select(i) {
      app.selected = i;
      for (const view of views) view.selected?.(i);
    },
    start(data, tensors, selected) {
      Object.assign(app, { data, selected, characters: [...data.text], tensors: new Map(Object.entries(tensors)) });
      for (const view of views) {
        const section = app.element('section', { id: view.id });
        document.body.append(section);
        const sentence = view.unavailable(data);
        if (sentence === null) view.mount(section);
        else section.append(sentence);
      }
    },
  };
})();
"""
COLOURS = "body { margin: 12px; --background: #fff; --foreground: #111; --muted: #666; --line: #ddd; --accent: #26c }"


def bare_page(scripts: Sequence[str] = (), start: str = "") -> str:
    """Return a page with charts, these scripts of the package, and what starts them."""
    sources = [APP, *(read(f"{name}.js") for name in ("charts", "plots", *scripts)), start]
    tags = "".join(f"<script>{source}</script>" for source in sources)
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    return f"<!DOCTYPE html><head>{head}<style>{COLOURS}{read('charts.css')}</style></head><body>{tags}</body>"


def read(name: str) -> str:
    return (PAGE / name).read_text("utf-8")


def page_of_tables(
    tables: dict[str, Any],
    text: str = "",
    *,
    cell: str = "lstm",
    saliency: list[list[float]] | None = None,
    selected: int = 0,
) -> str:
    """Return a page of the views of these tables; `saliency` (P, W) is the tensor of that name."""
    data = {"model": {"name": "model.safetensors", "cell": cell}, "text": text, "tables": tables}
    values = [] if saliency is None else [value for row in saliency for value in row]
    shape = [0, 0] if saliency is None else [len(saliency), len(saliency[0])]
    tensors = f"{{ saliency: {{ shape: {shape}, data: Float32Array.from({values}) }} }}"
    return bare_page(VIEWS, f"app.start({json.dumps(data)}, {tensors}, {selected});")
