"""Operations of a program by layer, in the form in which those of graphs are counted, and the
table of them for people.

Reads a program alone. Its cells are bits of planes, so weights that are zero are not told from
others: a kernel counts until its rows are gone.
"""

from __future__ import annotations

import onnx
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cimc.cost.layout import LayerUse, layout
from cimc.cost.report import quantity
from cimc.frontend.bind import bind_shapes
from cimc.frontend.importer import import_model
from cimc.frontend.operations import LayerOps, count
from cimc.frontend.reduction import Comparison, Pair, Sums
from cimc.isa.program import Program


def program_operations(program: Program) -> list[LayerOps]:
    """The layers on tiles, then those in host fragments. Raises CompileError for a fragment that
    is no model."""
    found = [_on_tiles(use) for use in layout(program).layers if use.where == "tiles"]
    for data in program.data:
        if data.kind == "onnx" and data.macs:
            model = onnx.load_model_from_string(data.array.astype("uint8").tobytes())
            graph = import_model(model, f".data {data.name}")
            bind_shapes(graph, {}, f".data {data.name}")
            found += count(graph)
    return found


def _on_tiles(use: LayerUse) -> LayerOps:
    kind = use.what.split()[0]
    return LayerOps(
        name=use.name,
        kind=kind,
        kernels=use.kernels,
        inputs=use.inputs,
        groups=1,
        taps=1,
        positions=use.positions,
        macs=use.macs,
        effective=use.macs,
        weights=use.kernels * use.inputs,
        zeros=None,
        live=use.kernels,
    )


# -- for people ------------------------------------------------------------------------


def print_operations(found: Comparison, compared: bool, console: Console) -> None:
    """A line for each layer, then the sums. compared: whether the dense original is another
    model, not the model itself."""
    title = "Operations for one sample"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("layer", "what"):
        table.add_column(heading, overflow="fold")
    for heading in ("kernels", "inputs", "positions", "MACs", "effective", "removed", "zeros"):
        table.add_column(heading, justify="right", no_wrap=True)
    for pair in found.pairs:
        table.add_row(escape(pair.name), *_cells(pair, compared))
    console.print(table)
    for line in _summary(found, compared):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _cells(pair: Pair, compared: bool) -> list[str]:
    now, dense = pair.now, pair.dense
    layer = dense or now
    assert layer is not None
    if now is None:
        return [layer.kind, f"0 of {layer.kernels}", *_blank(4), "100.0 %", "gone"]
    of = dense if compared else None
    removed = _percent(1 - now.effective / dense.macs) if dense and dense.macs else "new"
    return [
        layer.kind,
        _of(now.kernels, of.kernels if of else None),
        _of(now.inputs, of.inputs if of else None),
        quantity(now.positions),
        quantity(now.macs),
        quantity(now.effective),
        removed,
        _percent(now.zeros / now.weights) if now.zeros is not None and now.weights else "",
    ]


def _blank(count: int) -> list[str]:
    return [""] * count


def _of(part: int, whole: int | None) -> str:
    return f"{part:,}" if whole is None or part == whole else f"{part:,} of {whole:,}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _summary(found: Comparison, compared: bool) -> list[str]:
    lines = [
        _sum("convolutions", found.convolutions, compared),
        _sum("all layers", found.all_layers, compared),
    ]
    if found.scripted is not None:
        lines.append(f"{_SCRIPTED}: {_percent(found.scripted)} removed")
    lines.append(_EFFECTIVE)
    unknown = [p.name for p in found.pairs if p.now and p.now.kernels and not p.now.macs]
    if unknown:
        lines.append(f"not counted, because a size is not known: {', '.join(unknown)}")
    return lines


_SCRIPTED = (
    "as the published scripts define it (convolutions, no spatial size, input channels of the "
    "convolution before, in both sums)"
)
_EFFECTIVE = "effective: without kernels of zeros, and without input channels that meet zeros only"


def _sum(name: str, sums: Sums, compared: bool) -> str:
    if not sums.dense and not sums.macs:
        return f"{name}: no MACs"
    of = f" of {sums.dense:,}" if compared else ""
    text = (
        f"{name}: {sums.macs:,}{of} MACs, {sums.effective:,} of them effective: "
        f"{_percent(sums.removed)} removed"
    )
    if not sums.known and not compared:
        return text
    zero = "zero or gone" if sums.known and compared else "zero" if sums.known else "gone"
    return f"{text}; {_percent(sums.zero_share)} of the weights {zero}"
