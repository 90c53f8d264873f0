"""Draws with matplotlib: similarity of kernels, kernels, operations, accuracy.

Every picture is a function from data to the bytes of a PNG or SVG file. Colours are those of Okabe
and Ito (blue: kept, vermilion: removed), which the colour-blind can tell apart; kernels are grey.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from math import ceil, sqrt
from typing import Any

import numpy as np
import numpy.typing as npt

from cimc.errors import CompileError
from cimc.frontend.reduction import Comparison
from cimc.report.curves import Curve
from cimc.report.kernels import Layer
from cimc.report.similarity import clustered, cosines

FORMATS = ("png", "svg")
_KEPT, _REMOVED, _FAINT, _INK = "#0072B2", "#D55E00", "#C8C8C8", "#222222"
_LINES = (_KEPT, _REMOVED, "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
_MARKS, _STYLES = "osD^vP", ("-", "--", "-.", ":")
_WIDTH, _DPI = 9.0, 110
_INNER, _PIXEL = 7.6, 0.11  # inches: width beside the key, a weight of a kernel
_MOST = 256  # kernels in one picture of kernels


def need_matplotlib() -> None:
    """Raises CompileError, saying what to install, where matplotlib is missing."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise CompileError(
            "pictures are drawn with matplotlib, which is not installed",
            help="pip install 'cimc[plot]'",
        ) from None


def _figure(height: float) -> Any:
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    pads = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1)
    return Figure(figsize=(_WIDTH, height), dpi=_DPI, layout=pads, facecolor="white")


def _saved(figure: Any, format: str) -> bytes:
    """The same bytes for the same picture: no date, no random names."""
    import matplotlib

    stream = io.BytesIO()
    settings: Any = {"svg.hashsalt": "cimc", "font.size": 10, "text.color": _INK}
    with matplotlib.rc_context(settings):
        extra = {"Date": None} if format == "svg" else {"Software": None}
        figure.savefig(stream, format=format, metadata=extra)
    return stream.getvalue()


# -- similarity ------------------------------------------------------------------------


def similarity(layer: Layer, format: str) -> bytes:
    """Matrices of cosines before and after, kernels in one order, the removed ones marked."""
    figure = _figure(4.9)
    panels = figure.subplots(1, 2)
    before = cosines(layer.before)
    order = clustered(before)
    limit = _limit(before)
    image = _matrix(panels[0], before[np.ix_(order, order)], limit)
    panels[0].set_title(f"before: {_kernels(len(order))}")
    if layer.matched:
        _marked(panels[0], np.isin(order, layer.removed))
        _key(figure)
    if layer.after is None:
        panels[1].set_axis_off()
        panels[1].set_title("after: the layer is gone")
    else:
        after = cosines(layer.after)
        left = np.arange(len(after)) if layer.kept is None else _followed(order, layer.kept)
        _matrix(panels[1], after[np.ix_(left, left)], limit)
        live = int((~np.isnan(np.diagonal(after))).sum())
        zeros = f", {len(after) - live} of zeros (grey)" if live < len(after) else ""
        panels[1].set_title(f"after: {_kernels(len(after))}{zeros}")
    ticks = np.linspace(-limit, limit, 5)
    extend = "both" if limit < 1 else "neither"
    bar = figure.colorbar(image, ax=panels, shrink=0.8, extend=extend, ticks=ticks)
    bar.set_label("cosine of two kernels")
    figure.suptitle(layer.name, fontweight="bold")
    return _saved(figure, format)


def _limit(values: npt.NDArray[np.float32]) -> float:
    """Where the colours end: all but one in a hundred pairs lie within, in steps of 0.1. Few
    networks have kernels that are nearly equal, and the diagonal is 1 anyway."""
    pairs = np.abs(values[np.triu_indices(len(values), 1)])
    pairs = pairs[~np.isnan(pairs)]
    return ceil(10 * float(np.quantile(pairs, 0.99)) - 1e-3) / 10 or 0.1 if len(pairs) else 1.0


def _followed(order: npt.NDArray[np.intp], kept: npt.NDArray[np.intp]) -> Any:
    """The kernels that are left in the order that they have in the picture before."""
    place = np.empty(len(order), np.intp)
    place[order] = np.arange(len(order))
    return np.argsort(place[kept])


_STRIP, _GAP = 0.035, 0.012  # of the matrix' width: the strips beside it, and the gap to them


def _matrix(axes: Any, values: npt.NDArray[np.float32], limit: float) -> Any:
    from matplotlib import colormaps
    from matplotlib.patches import Rectangle

    colors = colormaps["PuOr_r"].with_extremes(bad=_FAINT)
    size = len(values)
    image = axes.imshow(values, cmap=colors, vmin=-limit, vmax=limit, extent=(0, size, size, 0))
    axes.add_patch(Rectangle((0, 0), size, size, fill=False, color=_INK, linewidth=0.8))
    axes.set_xlim(-(_STRIP + _GAP) * size, 1.005 * size)
    axes.set_ylim(1.005 * size, -(_STRIP + _GAP) * size)
    axes.set_axis_off()
    return image


def _marked(axes: Any, gone: npt.NDArray[np.bool_]) -> None:
    """A strip left of and above the matrix: which kernels are removed."""
    from matplotlib.colors import ListedColormap

    size = len(gone)
    near, far = -_GAP * size, -(_STRIP + _GAP) * size
    colors = ListedColormap([_KEPT, _REMOVED])
    strip = gone.astype(np.float32)
    bounds = axes.get_xlim(), axes.get_ylim()
    look: dict[str, Any] = {"cmap": colors, "vmin": 0, "vmax": 1, "interpolation": "nearest"}
    axes.imshow(strip[:, None], extent=(far, near, size, 0), aspect="equal", **look)
    axes.imshow(strip[None], extent=(0, size, near, far), aspect="equal", **look)
    axes.set_xlim(bounds[0])
    axes.set_ylim(bounds[1])


def _key(figure: Any) -> None:
    from matplotlib.patches import Patch

    figure.legend(
        handles=[Patch(color=_KEPT, label="kept"), Patch(color=_REMOVED, label="removed")],
        loc="outside lower left", ncols=2, frameon=False,
    )  # fmt: skip


def _kernels(count: int) -> str:
    return f"{count} kernel" if count == 1 else f"{count} kernels"


# -- kernels ---------------------------------------------------------------------------


def kernels(layer: Layer, format: str) -> bytes:
    """Kernels of the layer before pruning, the kept ones above the removed ones: small pictures
    for at most 4 input channels, else one line each."""
    gone = layer.removed
    parts = [("kept", _KEPT, np.setdiff1d(np.arange(len(layer.before)), gone))]
    parts.append(("removed", _REMOVED, gone))
    parts = [part for part in parts if len(part[2])]
    across = _across(layer.before, max(len(index) for _, _, index in parts))
    pictures = [_picture(layer.before[index[:_MOST]], across) for _, _, index in parts]
    heights = [_height(layer.before, picture) for picture in pictures]
    figure = _figure(sum(heights) + 0.35 * len(parts) + 0.9)
    panels = figure.subplots(len(parts), 1, squeeze=False, height_ratios=heights)[:, 0]
    largest = float(np.abs(layer.before).max()) or 1.0
    for axes, (name, color, index), picture in zip(panels, parts, pictures):
        shown = f", the first {_MOST} of them shown" if len(index) > _MOST else ""
        axes.set_title(f"{name}: {_kernels(len(index))}{shown}", color=color, loc="left")
        scale = _drawn(axes, picture, largest, color, _small(layer.before))
    if not _small(layer.before):
        axes.set_xlabel("weights of a kernel: input channel, then tap")
    bar = figure.colorbar(scale, ax=panels, shrink=0.9, fraction=0.03, panchor=False)
    bar.set_ticks([-largest, 0, largest])
    bar.set_ticklabels([f"{-largest:.3g}", "0", f"{largest:.3g}"])
    figure.suptitle(f"{layer.name}: weights before pruning", fontweight="bold")
    return _saved(figure, format)


def _small(rows: npt.NDArray[np.float32]) -> bool:
    """Whether a kernel is shown as a small picture."""
    return rows.ndim == 4 and rows.shape[1] <= 4 and min(rows.shape[2:]) > 1


def _across(rows: npt.NDArray[np.float32], most: int) -> int:
    """How many small pictures stand side by side: as many as fit at full size, or more where up
    to `most` of them would become higher than wide."""
    if not _small(rows):
        return 1
    _, channels, high, wide = map(int, rows.shape)
    high, wide = high + 1, channels * wide + 1
    square = ceil(sqrt(1.2 * min(most, _MOST) * high / wide))
    return max(1, int(_INNER / _PIXEL) // wide, square)


def _picture(rows: npt.NDArray[np.float32], across: int) -> npt.NDArray[np.float32]:
    """Small pictures with gaps of NaN around each, places without one infinite; or a line a
    kernel."""
    if not _small(rows):
        return rows.reshape(len(rows), -1)
    count, channels, high, wide = rows.shape
    down = ceil(count / across)
    wide *= channels
    picture = np.full((down * (high + 1) + 1, across * (wide + 1) + 1), np.inf, np.float32)
    corners = [(i // across * (high + 1), i % across * (wide + 1)) for i in range(count)]
    for y, x in corners:
        picture[y : y + high + 2, x : x + wide + 2] = np.nan
    for (y, x), kernel in zip(corners, rows):
        flat = kernel.transpose(1, 0, 2).reshape(high, wide)
        picture[y + 1 : y + 1 + high, x + 1 : x + 1 + wide] = flat
    return picture


def _height(rows: npt.NDArray[np.float32], picture: npt.NDArray[np.float32]) -> float:
    """Inches of a picture of kernels."""
    high, wide = map(int, picture.shape)
    if not _small(rows):
        return min(4.0, max(0.3, 0.07 * high))
    return min(_PIXEL, _INNER / wide) * high


def _drawn(
    axes: Any, picture: npt.NDArray[np.float32], largest: float, color: str, small: bool
) -> Any:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize, to_rgba

    scale = ScalarMappable(Normalize(-largest, largest), "gray")
    pixels = scale.to_rgba(np.nan_to_num(picture, posinf=0.0))
    pixels[np.isnan(picture)] = to_rgba(color)
    pixels[np.isinf(picture)] = to_rgba("white")
    axes.imshow(pixels, aspect="equal" if small else "auto", interpolation="nearest")
    axes.set_anchor("W")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(not small)
    axes.spines[:].set_color(color)
    return scale


# -- operations and accuracy -----------------------------------------------------------


def operations(found: Comparison, format: str) -> bytes:
    """A bar for each layer: what is left of its MACs, in front of those of the dense model."""
    pairs = [p for p in found.pairs if p.dense is not None]
    figure = _figure(1.3 + 0.3 * len(pairs))
    axes = figure.subplots()
    dense = np.array([p.dense.macs if p.dense else 0 for p in pairs], float)
    left = np.array([p.now.effective if p.now else 0 for p in pairs], float)
    places = np.arange(len(pairs))
    axes.barh(places, dense, color=_FAINT, height=0.72, label="before")
    axes.barh(places, left, color=_KEPT, height=0.4, label="after")
    axes.set_yticks(places, [_short(p.name) for p in pairs])
    axes.invert_yaxis()
    for place, whole, part in zip(places, dense, left):
        text = f"−{100 * (1 - part / whole):.0f} %" if whole and part < whole else "as before"
        axes.annotate(
            text, (whole, place), (5, 0), textcoords="offset points", va="center", fontsize=9
        )
    axes.set_xlim(0, 1.13 * max(dense.max(initial=0.0), 1.0))
    axes.xaxis.set_major_formatter(_engineering())
    axes.set_xlabel("multiply-accumulates for one sample")
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(
        f"{100 * found.convolutions.removed:.1f} % of the convolutions' operations removed, "
        f"{100 * found.all_layers.removed:.1f} % of all",
        loc="left",
    )
    figure.legend(loc="outside lower right", ncols=2, frameon=False)
    return _saved(figure, format)


def _engineering() -> Any:
    from matplotlib.ticker import EngFormatter

    return EngFormatter(sep="")


def _short(name: str) -> str:
    return name if len(name) <= 32 else f"…{name[-31:]}"


def accuracy(curves: Sequence[Curve], format: str) -> bytes:
    """Accuracy against the share of operations removed, a line for each curve."""
    figure = _figure(4.8)
    axes = figure.subplots()
    for i, curve in enumerate(curves):
        share, right = 100 * np.array(curve.points, float).T
        axes.plot(
            share, right, label=curve.label, color=_LINES[i % len(_LINES)],
            marker=_MARKS[i % len(_MARKS)], linestyle=_STYLES[i // len(_LINES) % len(_STYLES)],
            markersize=5, linewidth=1.8,
        )  # fmt: skip
    axes.set_xlabel("operations removed (%)")
    axes.set_ylabel("accuracy (%)")
    axes.grid(color="#E6E6E6")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return _saved(figure, format)
