"""The analyses of inspect as pictures, from what they say in JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from charrnn.cli import plots

_NOISE, _VANISHED = 1e-3, 1e-10  # bits/char and nats: what is less is not told apart
_ROWS, _COLUMNS = 12, 40  # characters whose saliency is drawn, and characters before each
_PICTURED = {" ": "␣", "\n": "⏎", "\t": "⇥"}
Fields = dict[str, Any]


def draw(analysis: str, models: Mapping[str, Fields], text: str, file: Path) -> None:
    """Draw an analysis of models by name, of one unless it is reach; errors as in `plots.picture`."""
    if analysis == "reach":
        _reach(models, file)
    else:
        ((name, fields),) = models.items()
        _DRAWN[analysis](name, fields, text, file)


def _reach(models: Mapping[str, Fields], file: Path) -> None:
    gradients = any(fields["gradient"] for fields in models.values())
    with plots.picture(file, 1, 2 + gradients, figsize=(4.3 * (2 + gradients), 3.8)) as (_, panels):
        truncated, shuffled, *norms = panels[0]
        for place, (name, fields) in enumerate(models.items()):
            line: dict[str, Any] = {"color": f"C{place}", "marker": "o", "markersize": 3}
            distances = fields["distances"]
            truncated.plot(distances, fields["truncated"], label=name, **line)
            shuffled.plot(distances, fields["shuffled"], label=name, **line)
            for axes in norms if fields["gradient"] else ():
                for state, style in (("hidden", "-"), ("cell", ":")):
                    if fields["gradient"][state]:
                        letter = {"hidden": "h", "cell": "c"}[state]
                        axes.plot(distances, fields["gradient"][state], style, label=f"{name}, {letter}", **line)
        for axes, what in ((truncated, "left out"), (shuffled, "shuffled")):
            axes.set_title(f"bits/char lost: further back {what}", loc="left", fontsize=10)
            axes.set_yscale("symlog", linthresh=_NOISE, linscale=0.5)  # a loss may be 0, or below
            axes.set_yticks([0, *(10.0**power for power in range(-3, 2))])
            axes.axhline(0, color="0.6", linewidth=0.8, zorder=0)
            plots.plain_numbers(axes.yaxis)
        for axes in norms:
            axes.set_title("gradient norm, nats: by the state k before", loc="left", fontsize=10)
            axes.set_yscale("log")
            axes.set_ylim(bottom=max(axes.get_ylim()[0], _VANISHED))
        for axes in panels[0]:
            axes.set_xscale("log", base=2)
            axes.set_xlabel("k, characters")
            plots.plain_numbers(axes.xaxis)
            axes.grid(alpha=0.25)
            axes.legend(frameon=False, fontsize=9)


def _units(name: str, fields: Fields, _: str, file: Path) -> None:
    best = fields["highlights"]
    with plots.picture(file, 1, figsize=(7.2, 1.4 + 0.22 * max(len(best), 4))) as (_, panels):
        axes = panels[0, 0]
        for row, one in enumerate(best):
            axes.plot([one["found"], one["confirmed"]], [row, row], color="0.75", linewidth=1, zorder=1)
        for kind, colour in (("auc", "C0"), ("r", "C1")):
            rows = [row for row, one in enumerate(best) if one["statistic"] == kind]
            if rows:
                label = {"auc": "AUC", "r": "|r|"}[kind]
                found, confirmed = ([best[row][half] for row in rows] for half in ("found", "confirmed"))
                axes.scatter(found, rows, s=22, facecolors="white", edgecolors=colour, zorder=2)
                axes.scatter(confirmed, rows, s=22, color=colour, zorder=3, label=f"{label}, confirmed (ring: found)")
        labels = [f"{one['feature']}   {_place(one)}" for one in best]
        axes.set_yticks(range(len(best)), labels, fontsize=8)
        axes.invert_yaxis()
        axes.set_xlim(0, 1.02)
        axes.grid(alpha=0.25, axis="x")
        axes.set_title(f"{name}: the units most worth looking at, and what they follow", loc="left", fontsize=10)
        if best:
            axes.legend(frameon=False, fontsize=9, loc="lower left")
        else:
            axes.text(
                0.5, 0.5, "no unit follows a feature more closely than chance", transform=axes.transAxes, ha="center"
            )


def _place(one: Mapping[str, Any]) -> str:
    direction = "" if one["direction"] == "forward" else "backward "
    return f"{direction}layer {one['layer']}, {one['state']} {one['unit']}"


def _gates(name: str, fields: Fields, _: str, file: Path) -> None:
    rows = list(dict.fromkeys((one["direction"], one["layer"]) for one in fields["layers"]))
    columns = list(dict.fromkeys(one["gate"] for one in fields["layers"]))
    size = {"figsize": (2.6 * len(columns) + 0.6, 2.6 * len(rows) + 0.6), "sharex": True, "sharey": True}
    with plots.picture(file, len(rows), len(columns), **size) as (figure, panels):
        for one in fields["layers"]:
            direction, layer = one["direction"], one["layer"]
            axes = panels[rows.index((direction, layer)), columns.index(one["gate"])]
            axes.scatter(one["low"], one["high"], s=9, alpha=0.5, linewidths=0)
            axes.plot([0, 1], [1, 0], color="0.7", linewidth=0.8, zorder=0)
            axes.set_title(f"{'' if direction == 'forward' else 'backward '}layer {layer}, {one['gate']}", fontsize=9)
            axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), aspect="equal")
            axes.grid(alpha=0.25)
        figure.supxlabel("share of time nearly shut (below 0.1)", fontsize=10)
        figure.supylabel("share of time wide open (above 0.9)", fontsize=10)
        figure.suptitle(f"{name}: each unit's gates", fontsize=10)


def _errors(name: str, fields: Fields, _: str, file: Path) -> None:
    tables = [(kind, key) for kind, key in (("class", "classes"), ("oracle", "oracles")) if fields[key]]
    size: dict[str, Any] = {"figsize": (7.2, 1.2 + 0.3 * sum(len(fields[key]) + 2 for _, key in tables))}
    ratios = [len(fields[key]) + 1 for _, key in tables]
    with plots.picture(file, len(tables), height_ratios=ratios, **size) as (_, panels):
        for (kind, key), axes in zip(tables, panels[:, 0], strict=True):
            several = fields[key]
            axes.barh([one[kind] for one in several], [one["share"] for one in several], color="C0", height=0.7)
            for row, one in enumerate(several):
                each = one["bits"] / one["characters"] if one["characters"] else 0.0
                axes.text(
                    one["share"],
                    row,
                    f" {one['share']:.1%}, {one['characters']:,} of {each:.2f} bits",
                    va="center",
                    fontsize=8,
                )
            axes.invert_yaxis()
            axes.margins(x=0.4)
            axes.grid(alpha=0.25, axis="x")
            whose = {"class": "all bits", "oracle": "the bits of characters that had p < 1/2"}[kind]
            axes.set_xlabel(f"share of {whose}", fontsize=9)
        panels[0, 0].set_title(
            f"{name}: where its {fields['bits'] / fields['characters']:.3f} bits/char go", loc="left", fontsize=10
        )
        if len(tables) > 1:
            panels[1, 0].set_title("spent on what another would have known", loc="left", fontsize=10)


def _saliency(name: str, fields: Fields, text: str, file: Path) -> None:
    """Draw some characters of the text, each after those before it, on backgrounds by how much these mattered."""
    rows = fields["rows"]
    enough = rows[min(_COLUMNS, len(rows) - 1) :]
    chosen = [enough[round(place * (len(enough) - 1) / max(1, _ROWS - 1))] for place in range(min(_ROWS, len(enough)))]
    with plots.picture(file, 1, figsize=(11.0, 0.9 + 0.36 * len(chosen))) as (_, panels):
        axes = panels[0, 0]
        for row, one in enumerate(chosen):
            values = one["values"][-_COLUMNS:]
            most = max(values, default=0.0) or 1.0
            for back, norm in enumerate(reversed(values), 1):
                share = norm / most
                square = {"boxstyle": "square,pad=0", "facecolor": "none", "edgecolor": "none"}
                axes.add_patch(_square(-back, row, (0.13, 0.4, 0.75, share)))
                shown = _character(text[one["position"] - back])
                axes.text(
                    -back,
                    row,
                    shown,
                    ha="center",
                    va="center",
                    fontsize=9,
                    bbox=square,
                    color="white" if share > 0.6 else "black",
                )
            axes.text(0.3, row, f"{_character(one['character'])}", ha="left", va="center", fontsize=10, weight="bold")
            axes.text(1.6, row, f"{one['bits']:.2f} bits", ha="left", va="center", fontsize=8, color="0.35")
        axes.set(xlim=(-_COLUMNS - 0.6, 4.5), ylim=(len(chosen) - 0.4, -0.6), xticks=[], yticks=[])
        axes.spines[["left", "bottom"]].set_visible(False)
        axes.set_title(
            f"{name}: which characters before mattered for the last one of each row", loc="left", fontsize=10
        )


def _square(x: float, y: float, colour: tuple[float, ...]) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((x - 0.5, y - 0.42), 1.0, 0.84, facecolor=colour, edgecolor="none")


def _character(character: str) -> str:
    """Return what shows a character; a dollar would begin a formula."""
    shown = _PICTURED.get(character, character)
    return "�" if not shown.isprintable() else "\\$" if shown == "$" else shown


_DRAWN: dict[str, Callable[[str, Fields, str, Path], None]] = {
    "units": _units,
    "gates": _gates,
    "errors": _errors,
    "saliency": _saliency,
}
