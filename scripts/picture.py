#!/usr/bin/env python3
"""README's picture, from a diagnosis: layers down, sites across, coloured by error over noise floor; what is blamed is ringed.

paritrace diagnose TRACE --model MODEL --json result.json
scripts/picture.py result.json docs/picture.svg
"""

import json
import math
import sys
from html import escape
from pathlib import Path

CELL_WIDTH, CELL_HEIGHT, LEFT, TOP = 42, 26, 64, 84
# From blue (within noise) to brown (a thousand times the floor and more); lightness falls one way, as on the page of --html.
COLOURS = ["#d7e6f2", "#e3c898", "#c99a55", "#a86f2c", "#7d4a17", "#54300c"]


def colour(ratio):
    if ratio is None:
        return COLOURS[-1]
    if ratio <= 4:
        return COLOURS[0]
    return COLOURS[min(1 + int(math.log10(ratio / 4) * 1.4), len(COLOURS) - 1)]


def grid(result):
    """({layer: {name in the layer: row of noise}}, names in order)."""
    layers, names = {}, []
    for row in result["noise"]:
        _, _, rest = row["site"].partition("layers.")
        if row["step"] or not rest or not row.get("judged", True):
            continue
        layer, _, name = rest.partition(".")
        layers.setdefault(int(layer), {})[name] = row
        if name not in names:
            names.append(name)
    return layers, names


def svg(result):
    layers, names = grid(result)
    blamed = {defect["site"] for defect in result["defects"]}
    width, height = LEFT + CELL_WIDTH * len(names) + 48, TOP + CELL_HEIGHT * len(layers) + 84
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" font-family="sans-serif" '
        'font-size="12" fill="#1c2733">',
        f"<title>{escape(sentence(result))}</title>",
        f'<rect width="{width}" height="{height}" rx="8" fill="#ffffff"/>',
    ]
    for i, name in enumerate(names):
        x = LEFT + CELL_WIDTH * i + CELL_WIDTH / 2
        out.append(f'<text x="{x:.0f}" y="{TOP - 8}" transform="rotate(-45 {x:.0f} {TOP - 8})">{escape(name)}</text>')
    for layer, sites in sorted(layers.items()):
        y = TOP + CELL_HEIGHT * layer
        out.append(f'<text x="{LEFT - 10}" y="{y + 17}" text-anchor="end">layer {layer}</text>')
        for i, name in enumerate(names):
            if name not in sites:
                continue
            x, row = LEFT + CELL_WIDTH * i, sites[name]
            ring = ' stroke="#1c2733" stroke-width="2.5"' if row["site"] in blamed else ""
            out.append(
                f'<rect x="{x + 2}" y="{y + 2}" width="{CELL_WIDTH - 4}" height="{CELL_HEIGHT - 4}" rx="3" '
                f'fill="{colour(row["ratio"])}"{ring}/>'
            )
    y = TOP + CELL_HEIGHT * len(layers) + 28
    out.append(f'<text x="16" y="{y}" font-size="15" font-weight="bold">{escape(sentence(result))}</text>')
    if result["summary"]:
        out.append(f'<text x="16" y="{y + 22}">{escape(short(result["summary"][0]["statement"], width))}</text>')
        out.append(f'<text x="16" y="{y + 42}">Fix: {escape(short(result["summary"][0]["fix"], width))}</text>')
    return "\n".join([*out, "</svg>"]) + "\n"


def short(text, width):
    most = int(width / 6.4) - 8
    return text if len(text) <= most else text[: most - 1].rsplit(" ", 1)[0] + " …"


def sentence(result):
    if not result["summary"]:
        return "Within noise"
    causes = ", ".join(f"{group['cause']} at {len(group['sites'])} sites" for group in result["summary"])
    return f"Diverged: {causes}. All other sites only inherit it."


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(svg(json.loads(Path(sys.argv[1]).read_text())), encoding="utf-8")
