"""All pictures of a report, and a page that shows them: files of a folder."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from cimc.errors import CompileError
from cimc.frontend.operations import count
from cimc.frontend.reduction import Comparison, compare
from cimc.ir.graph import Graph
from cimc.ir.names import identifier
from cimc.report import pictures
from cimc.report.curves import Curve
from cimc.report.kernels import Layer, compare_kernels
from cimc.textfile import write_bytes, write_text

_TYPES = {"png": "image/png", "svg": "image/svg+xml"}


@dataclass(frozen=True)
class Picture:
    """A file's name, its bytes, its title and what it shows."""

    name: str
    data: bytes
    title: str
    caption: str


@dataclass(frozen=True)
class Changes:
    """A model before and after pruning: its layers with constant weights, and its operations."""

    layers: tuple[Layer, ...]
    operations: Comparison

    @property
    def lines(self) -> list[str]:
        """A line for each layer that lost kernels or could not be matched, then the sums."""
        found = [_line(layer) for layer in self.layers if len(layer.removed) or not layer.matched]
        conv, whole = self.operations.convolutions, self.operations.all_layers
        found.append(
            f"operations removed: {100 * conv.removed:.1f} % of convolutions, "
            f"{100 * whole.removed:.1f} % of all layers"
        )
        return found


def changes(before: Graph, after: Graph, where: str) -> Changes:
    """What became of a model; both graphs with known shapes. where: how errors name the pruned
    one. Raises CompileError for models that have no layer in common."""
    compared = compare(count(after), count(before), where)
    return Changes(tuple(compare_kernels(before, after)), compared)


def _line(layer: Layer) -> str:
    if not layer.matched:
        return f"{layer.name}: kernels before and after can't be matched"
    return f"{layer.name}: {len(layer.removed)} of {len(layer.before)} kernels removed"


def draw(
    found: Changes | None,
    curves: Sequence[Curve],
    format: str,
    progress: Callable[[int, int], None] | None = None,
) -> list[Picture]:
    """The pictures. progress: called with (done, total). Raises CompileError without matplotlib."""
    pictures.need_matplotlib()
    made: list[Picture] = []
    if curves:
        data = pictures.accuracy(curves, format)
        made.append(Picture(f"accuracy.{format}", data, "Accuracy", _ACCURACY))
    if found is None:
        return made
    data = pictures.operations(found.operations, format)
    made.append(Picture(f"operations.{format}", data, "Operations by layer", _OPERATIONS))
    shown = [layer for layer in found.layers if len(layer.before) > 1]
    names = _names([layer.name for layer in shown])
    for done, (layer, name) in enumerate(zip(shown, names)):
        if progress is not None:
            progress(done, len(shown))
        data = pictures.similarity(layer, format)
        title = f"{layer.name}: similarity"
        made.append(Picture(f"similarity.{name}.{format}", data, title, _similarity(layer)))
        if len(layer.removed):
            data = pictures.kernels(layer, format)
            title = f"{layer.name}: kernels"
            made.append(Picture(f"kernels.{name}.{format}", data, title, _KERNELS))
    return made


_ACCURACY = "What accuracy is left when that share of the operations is removed."
_OPERATIONS = (
    "Grey: the model before pruning. Blue: what is left, without kernels of zeros and input "
    "channels that meet zeros only. Padding counts."
)
_KERNELS = (
    "Weights before pruning, from black (most negative) over grey (zero) to white. Each removed "
    "kernel takes its rows of cells, its reads, and its channel in the layers behind."
)


def _similarity(layer: Layer) -> str:
    text = (
        "Each pixel is a pair of kernels: 1 for the same direction, −1 for a complement. Similar "
        "kernels, complements included, stand together; the order is the same in both matrices."
    )
    if not layer.matched:
        return f"{text} Which kernels went could not be found by comparing: the inputs differ."
    gone = len(layer.removed)
    return f"{text} {gone} of {len(layer.before)} kernels are removed."


def _names(layers: Sequence[str]) -> list[str]:
    """Names for files, each its own."""
    found: list[str] = []
    for layer in layers:
        name = identifier(layer)
        taken = sum(n == name or n.startswith(f"{name}-") for n in found)
        found.append(f"{name}-{taken + 1}" if taken else name)
    return found


# -- files -----------------------------------------------------------------------------


def check_folder(folder: str | Path) -> None:
    """Raises CompileError where a folder can't be: looked at before the work begins."""
    path = Path(folder)
    there = next(p for p in (path, *path.absolute().parents) if p.exists())
    if not there.is_dir():
        raise CompileError(f"'{there}' is a file", str(path), help="give another folder")


def write(folder: str | Path, made: Sequence[Picture], title: str, lines: Sequence[str]) -> None:
    """The pictures and `index.html`, which has all of them in it. Raises CompileError where
    nothing can be written."""
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CompileError(f"can't make the folder: {error.strerror}", str(path)) from None
    for picture in made:
        write_bytes(path / picture.name, picture.data)
    write_text(path / "index.html", page(made, title, lines))


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff; max-width: 62rem;
  margin: 2rem auto; padding: 0 1rem; }}
figure {{ margin: 2.5rem 0; }}
figcaption {{ color: #555; max-width: 46rem; }}
img {{ max-width: 100%; height: auto; }}
h2 {{ font-size: 1.1rem; margin: 0 0 .5rem; }}
</style>
</head>
<body>
<h1>{title}</h1>
<ul>
{lines}
</ul>
{figures}
</body>
</html>
"""
_FIGURE = """<figure>
<h2>{title}</h2>
<img alt="{title}" src="data:{type};base64,{data}">
<figcaption>{caption}</figcaption>
</figure>"""


def page(made: Sequence[Picture], title: str, lines: Sequence[str]) -> str:
    """HTML with every picture in it; it needs no other file."""
    figures = [
        _FIGURE.format(
            title=escape(picture.title),
            type=_TYPES[picture.name.rpartition(".")[2]],
            data=base64.b64encode(picture.data).decode("ascii"),
            caption=escape(picture.caption),
        )
        for picture in made
    ]
    items = "\n".join(f"<li>{escape(line)}</li>" for line in lines)
    return _PAGE.format(title=escape(title), lines=items, figures="\n".join(figures))
