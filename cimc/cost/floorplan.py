"""Draws a program's tiles and what lies on them, as a picture and as lines of text.

Takes a `Layout`; computes nothing about layers. Rows are logical rows: what a `.map` line
moves is drawn where the program names it.
"""

from __future__ import annotations

import colorsys
import io
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cimc.cost.layout import Block, Layout, TileUse
from cimc.textfile import write_bytes

if TYPE_CHECKING:
    from PIL.Image import Image
    from rich.text import Text

_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_HUES = ("4e79a7", "f28e2b", "59a14f", "b07aa1", "e15759", "76b7b2", "edc948", "9c755f")


def letter(index: int) -> str:
    """The mark of layer number `index` in text; more than 52 layers share letters."""
    return _LETTERS[index % len(_LETTERS)]


def color(index: int) -> str:
    """The color of layer number `index`, `#rrggbb`: eight distinct ones, then golden-ratio
    steps around the circle of hues."""
    if index < len(_HUES):
        return f"#{_HUES[index]}"
    hue = index * 0.618034 % 1.0
    red, green, blue = colorsys.hls_to_rgb(hue, 0.5 + 0.12 * (index % 3 - 1), 0.5)
    return f"#{round(red * 255):02x}{round(green * 255):02x}{round(blue * 255):02x}"


# -- text ------------------------------------------------------------------------------


def bars(plan: Layout, width: int = 40, most: int = 40) -> list[Text]:
    """A line for each tile: a bar over its rows with the letters of the layers, and how many
    rows and cells hold kernels. Equal neighbours share a line; at most `most` lines."""
    from rich.text import Text

    target = plan.target
    index = {name: i for i, name in enumerate(plan.names)}
    by_tile = _by_tile(plan)
    width = min(width, target.rows)

    def key(use: TileUse) -> tuple[tuple[int | None, ...], int, int]:
        marks = _marks(by_tile.get(use.tile, []), index, target.rows, width)
        return marks, use.rows, use.cells

    groups = ((k, list(uses)) for k, uses in groupby(plan.tiles, key))
    shown = list(islice(groups, most))  # the rest is counted, not drawn
    rest = len(plan.tiles) - sum(len(uses) for _, uses in shown)
    labels = [_label(uses[0].tile, uses[-1].tile) for _, uses in shown]
    wide = max(map(len, labels), default=0)
    lines = []
    for label, ((marks, rows, cells), _) in zip(labels, shown):
        line = Text(f"{label:<{wide}} |", no_wrap=True)
        for mark in marks:
            line.append(" " if mark is None else letter(mark), _style(mark))
        share = 100 * cells / (target.rows * target.cols)
        line.append(f"| {rows}/{target.rows} rows, {share:.0f} % of cells")
        lines.append(line)
    if rest:
        lines.append(Text(f"and {rest} more tiles"))
    return lines


def _label(first: int, last: int) -> str:
    return f"t{first}" if first == last else f"t{first}-t{last}"


def _marks(
    blocks: list[Block], index: dict[str, int], rows: int, width: int
) -> tuple[int | None, ...]:
    """For each of `width` parts of a tile's rows, the layer with most rows there."""
    marks: list[int | None] = []
    for part in range(width):
        low, high = part * rows // width, (part + 1) * rows // width
        shares: dict[int, int] = {}
        for b in blocks:
            common = min(high, b.row + b.rows) - max(low, b.row)
            if common > 0:
                shares[index[b.layer]] = shares.get(index[b.layer], 0) + common
        marks.append(max(shares, key=shares.__getitem__) if shares else None)
    return tuple(marks)


def _style(mark: int | None) -> str:
    return "" if mark is None else f"#ffffff on {color(mark)}"


def _by_tile(plan: Layout) -> dict[int, list[Block]]:
    found: dict[int, list[Block]] = {}
    for block in plan.blocks:
        found.setdefault(block.tile, []).append(block)
    return found


# -- picture ---------------------------------------------------------------------------

_INK, _FAINT, _UNUSED, _PAPER = "#222222", "#777777", "#e4e4e4", "#ffffff"
_MARGIN, _GAP, _HEAD, _LINE = 32, 20, 72, 26
_WIDEST, _TALLEST = 1600, 840  # pixels of all tiles together
_SCALES = (6.0, 4.0, 3.0, 2.0, 1.5, 1.0, 0.75, 0.5, 0.375, 0.25, 0.125, 0.0625)
_MOST_TILES = 4096


@dataclass(frozen=True)
class _Grid:
    """Where tiles go: pixels per cell, size of a tile in pixels, tiles side by side."""

    scale: float
    width: int
    height: int
    across: int
    down: int
    label: int  # height of the line over each tile; 0 if tiles are too small for one

    def corner(self, tile: int) -> tuple[int, int]:
        """Upper left corner, from that of the first tile's label."""
        row, column = divmod(tile, self.across)
        x = column * (self.width + self.gap)
        return x, row * (self.height + self.gap + self.label) + self.label

    @property
    def gap(self) -> int:
        return _GAP if self.label else 6


def _grid(rows: int, cols: int, tiles: int) -> _Grid:
    """The largest scale at which all tiles fit an area of about 2:1; else the smallest."""
    found = None
    for scale in _SCALES:
        width, height = max(2, round(cols * scale)), max(2, round(rows * scale))
        label = 20 if width >= 36 else 0
        gap = _GAP if label else 6
        across = max(1, min(tiles, (_WIDEST + gap) // (width + gap)))
        down = -(-tiles // across)
        found = _Grid(scale, width, height, across, down, label)
        if width <= _WIDEST and down * (height + gap + label) <= _TALLEST:
            return found
    assert found is not None
    return found


def draw(plan: Layout, title: str) -> Image:
    """The floorplan: each tile as a rectangle to scale, a column of cells as wide as a row is
    high; kernels in the color of their layer, unused cells grey, names below."""
    from PIL import Image, ImageDraw

    shown = min(len(plan.tiles), _MOST_TILES)
    target = plan.target
    grid = _grid(target.rows, target.cols, max(1, shown))
    names = plan.names
    legend = _Legend(names, plan)
    tiles_wide = grid.across * (grid.width + grid.gap) - grid.gap
    inner = max(tiles_wide, 640)
    tiles_high = grid.down * (grid.height + grid.gap + grid.label)
    columns = max(1, inner // legend.width)
    lines = -(-(len(names) + 1) // columns)
    size = (inner + 2 * _MARGIN, _HEAD + _MARGIN + tiles_high + lines * _LINE + _MARGIN)
    image = Image.new("RGB", size, _PAPER)
    pen = ImageDraw.Draw(image)
    pen.text((_MARGIN, 20), title, _INK, font=_font(22))
    pen.text((_MARGIN, 50), _subtitle(plan, shown), _FAINT, font=_font(15))
    by_tile = _by_tile(plan)
    index = {name: i for i, name in enumerate(names)}
    for tile in range(shown):
        x, y = grid.corner(tile)
        corner = (_MARGIN + x, _HEAD + _MARGIN // 2 + y)
        _draw_tile(pen, grid, corner, tile, by_tile.get(tile, []), index)
    top = _HEAD + _MARGIN // 2 + tiles_high + _MARGIN // 4
    for i, (fill, text) in enumerate(legend.entries):
        column, line = divmod(i, lines)
        x, y = _MARGIN + column * legend.width, top + line * _LINE
        pen.rectangle((x, y + 3, x + 16, y + 19), fill=fill)
        pen.text((x + 26, y + 2), text, _INK, font=_font(15))
    return image


def save(plan: Layout, title: str, path: str | Path) -> None:
    """Write the picture as PNG, whole or not at all. Raises CompileError."""
    stream = io.BytesIO()
    draw(plan, title).save(stream, "PNG", optimize=True)
    write_bytes(path, stream.getvalue())


class _Legend:
    """Color and text for each layer, then for unused cells; `width` of a column in pixels."""

    def __init__(self, names: tuple[str, ...], plan: Layout) -> None:
        cells = dict.fromkeys(names, 0)
        for block in plan.blocks:
            cells[block.layer] += block.rows * block.cols
        self.entries = [
            (color(i), f"{name}  {cells[name]:,} cells") for i, name in enumerate(names)
        ]
        target = plan.target
        unused = target.tiles * target.rows * target.cols - plan.cells
        self.entries.append((_UNUSED, f"not used  {unused:,} cells"))
        font = _font(15)
        self.width = 60 + max(round(font.getlength(text)) for _, text in self.entries)


def _subtitle(plan: Layout, shown: int) -> str:
    target = plan.target
    total = target.tiles * target.rows * target.cols
    share = 100 * plan.cells / total if total else 0.0
    text = (
        f"{target.tiles} tile{'s' * (target.tiles != 1)} of {target.rows} rows x "
        f"{target.cols} columns ({target.name}), {share:.1f} % of the cells used"
    )
    return text if shown == target.tiles else f"{text}; the first {shown} are shown"


def _draw_tile(
    pen: Any,
    grid: _Grid,
    corner: tuple[int, int],
    tile: int,
    blocks: list[Block],
    index: dict[str, int],
) -> None:
    x, y = corner
    if grid.label:
        pen.text((x, y - 18), f"t{tile}", _FAINT, font=_font(13))
    pen.rectangle((x, y, x + grid.width - 1, y + grid.height - 1), fill=_UNUSED)
    named: set[str] = set()
    for b in sorted(blocks, key=lambda b: b.row):
        left, right = x + b.col * grid.scale, x + (b.col + b.cols) * grid.scale
        upper, lower = y + b.row * grid.scale, y + (b.row + b.rows) * grid.scale
        box = _pixels(left, upper, right, lower)
        pen.rectangle(box, fill=color(index[b.layer]))
        if box[3] - box[1] >= 6:  # a line between blocks shows segments and groups
            pen.line((box[0], box[3], box[2], box[3]), fill=_PAPER)
        if b.layer not in named and _name(pen, box, b.layer):
            named.add(b.layer)


def _name(pen: Any, box: tuple[int, int, int, int], name: str) -> bool:
    """Write a layer's name into a block, if it fits."""
    font = _font(14)
    if box[3] - box[1] < 20 or box[2] - box[0] < font.getlength(name) + 16:
        return False
    pen.text((box[0] + 8, box[1] + 4), name, _PAPER, font=font)
    return True


def _pixels(left: float, upper: float, right: float, lower: float) -> tuple[int, int, int, int]:
    """A box with inclusive corners, at least one pixel large."""
    x, y = round(left), round(upper)
    return x, y, max(x, round(right) - 1), max(y, round(lower) - 1)


def _font(size: int) -> Any:
    """Pillow's own font: the same picture on every machine."""
    from PIL import ImageFont

    return ImageFont.load_default(size)
