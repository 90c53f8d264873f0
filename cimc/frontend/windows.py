"""The sliding window of an ONNX Conv or pool as explicit strides, pads and dilations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cimc.ir.graph import Node, Value
from cimc.ir.rules import window
from cimc.ir.types import Array, Dim


def window_attrs(node: Node, kernel: Sequence[int]) -> dict[str, Any] | None:
    """`strides`, `pads` and `dilations`, with auto_pad and ceil_mode resolved; entries with
    their default value are left out. None where that needs a size that is not known.

    kernel: the spatial size of the kernel. End pads are adjusted so that the floor formula
    gives the output size that ONNX shape inference found (ceil_mode).
    """
    rank = len(kernel)
    strides = node.ints_attr("strides") or (1,) * rank
    dilations = node.ints_attr("dilations") or (1,) * rank
    pads = node.ints_attr("pads") or (0,) * (2 * rank)
    auto = node.attrs.get("auto_pad", "NOTSET") or "NOTSET"
    reach = [d * (k - 1) + 1 for k, d in zip(kernel, dilations)]
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        found = _same(node, strides, reach, lower=auto == "SAME_LOWER")
        if found is None:
            return None
        pads = found
    elif auto == "VALID":
        pads = (0,) * (2 * rank)
    if node.attrs.get("ceil_mode", 0):
        found = _ceil(node, strides, reach, pads)
        if found is None:
            return None
        pads = found
    attrs: dict[str, Any] = {}
    if any(s != 1 for s in strides):
        attrs["strides"] = strides
    if any(pads):
        attrs["pads"] = pads
    if any(d != 1 for d in dilations):
        attrs["dilations"] = dilations
    return attrs


def conv_attrs(node: Node, kernel: Sequence[int], *margins: Sequence[int]) -> dict[str, Any] | None:
    """The window of a convolution and its `group`, with the margins (begins, then ends; () for
    none) as more padding; None as `window_attrs`."""
    attrs = window_attrs(node, kernel)
    if attrs is None:
        return None
    for margin in margins:
        if any(margin):
            attrs["pads"] = tuple(np.add(margin, attrs.get("pads", 0)).tolist())
    return attrs | _group(node)


def _group(node: Node) -> dict[str, Any]:
    group = node.int_attr("group", 1)
    return {"group": group} if group != 1 else {}


def gather_attrs(
    node: Node, kernel: Sequence[int]
) -> tuple[dict[str, Any], tuple[int, ...]] | None:
    """A ConvTranspose as a convolution with mirrored kernels over its input spread by `up`:
    `up`, `pads`, `dilations` and `group` without defaults, and how many rows to cut off then, at
    the begin of each spatial axis and at the end. None where that needs a size that is not known.

    kernel: the spatial size of the kernel. onnxruntime decides how auto_pad and output_shape
    share an odd padding out: the larger half at the begin, but for SAME_UPPER.
    """
    rank = len(kernel)
    up = node.ints_attr("strides") or (1,) * rank
    dilations = node.ints_attr("dilations") or (1,) * rank
    extra = node.ints_attr("output_padding") or (0,) * rank
    pads = list(node.ints_attr("pads") or (0,) * (2 * rank))
    reach = [d * (k - 1) + 1 for k, d in zip(kernel, dilations)]
    auto = node.attrs.get("auto_pad", "NOTSET") or "NOTSET"
    wanted = node.ints_attr("output_shape")[-rank:] if rank else ()
    if auto == "VALID" and not wanted:
        pads = [0] * (2 * rank)
    elif wanted or auto in ("SAME_UPPER", "SAME_LOWER"):
        sizes = _spatial(node.arg(0).tensor.shape)
        if sizes is None:
            return None
        for i, size in enumerate(sizes):
            full = (size - 1) * up[i] + extra[i] + reach[i]
            out = wanted[i] if wanted else size * up[i]
            total = max(0, full - out)
            pads[i] = total // 2 if auto == "SAME_UPPER" else total - total // 2
            pads[rank + i] = total - pads[i]
    margin = [reach[i] - 1 - pads[i] for i in range(rank)]
    margin += [reach[i] - 1 - pads[rank + i] + extra[i] for i in range(rank)]
    attrs: dict[str, Any] = {"up": up} if any(s != 1 for s in up) else {}
    if any(p > 0 for p in margin):
        attrs["pads"] = tuple(max(0, p) for p in margin)
    if any(d != 1 for d in dilations):
        attrs["dilations"] = dilations
    return attrs | _group(node), tuple(max(0, -p) for p in margin)


def mirrored(w: Any, group: int) -> Array:
    """The kernels of that convolution: [group * in, out, taps] as [group * out, in, taps in
    reverse]."""
    parts = w.reshape(group, -1, *w.shape[1:]).swapaxes(1, 2)
    turned = np.flip(parts.reshape(-1, *parts.shape[2:]), tuple(range(2, w.ndim)))
    return np.ascontiguousarray(turned)


def pool_attrs(node: Node) -> dict[str, Any] | None:
    """`kernel` and the window of a MaxPool as attributes of a cim.max_pool; None where a window
    may have no tap inside, or that depends on a size that is not known."""
    kernel = node.ints_attr("kernel_shape")
    attrs = window_attrs(node, kernel)
    if attrs is None or not _covered(node.arg(0), kernel, attrs):
        return None
    return {"kernel": kernel} | attrs


def _covered(value: Value, kernel: Sequence[int], attrs: dict[str, Any]) -> bool:
    """Whether each window over `value` has a tap inside it: a maximum over nothing has no
    integer. False where a size is not known."""
    sizes = _spatial(value.tensor.shape)
    if sizes is None:
        return False
    strides, pads, dilations = window(
        {"strides": (), "pads": (), "dilations": ()} | attrs, len(sizes)
    )
    for i, size in enumerate(sizes):
        taps = np.arange(kernel[i]) * dilations[i]
        reach = dilations[i] * (kernel[i] - 1) + 1
        last = size + pads[i] + pads[len(sizes) + i] - reach
        starts = np.arange(0, last + 1, strides[i]) - pads[i]
        at = starts[:, None] + taps
        if not ((at >= 0) & (at < size)).any(axis=1).all():
            return False
    return True


def _spatial(dims: Sequence[int | str] | None) -> list[int] | None:
    sizes = [d for d in (dims or ())[2:] if isinstance(d, int)]
    return sizes if dims is not None and len(sizes) == len(dims) - 2 else None


def _same(
    node: Node, strides: Sequence[int], reach: Sequence[int], lower: bool
) -> tuple[int, ...] | None:
    sizes = _spatial(node.arg(0).tensor.shape)
    if sizes is None:
        return None
    begins, ends = [], []
    for size, stride, span in zip(sizes, strides, reach):
        total = max(0, (-(-size // stride) - 1) * stride + span - size)
        small = total // 2
        begins.append(total - small if lower else small)
        ends.append(small if lower else total - small)
    return (*begins, *ends)


def _ceil(
    node: Node, strides: Sequence[int], reach: Sequence[int], pads: Sequence[int]
) -> tuple[int, ...] | None:
    sizes, out = _spatial(node.arg(0).tensor.shape), _spatial(node.outputs[0].tensor.shape)
    if sizes is None or out is None:
        return None
    rank = len(sizes)
    ends = [max(0, (out[i] - 1) * strides[i] + reach[i] - sizes[i] - pads[i]) for i in range(rank)]
    return (*pads[:rank], *ends)


Cut = tuple[int, int, int]  # axis, first element, one past the last


def slices(node: Node) -> list[list[Cut]] | None:
    """What each result of an ONNX Slice or Split takes of its operand; None where that isn't
    known, is empty, or takes other steps than one. Axes that are not cut may be symbolic."""
    dims = node.arg(0).tensor.shape
    if dims is None:
        return None
    if node.op == "onnx.Split":
        return _split(node, dims)
    if "starts" in node.attrs:  # before operator set 10
        starts, ends = node.ints_attr("starts"), node.ints_attr("ends")
        axes = node.ints_attr("axes") or tuple(range(len(starts)))
        steps: tuple[int, ...] = (1,) * len(starts)
    else:
        known = [_numbers(node.operand(i)) for i in (1, 2, 3, 4)]
        if known[0] is None or known[1] is None:
            return None
        if any(node.operand(i) is not None and known[i - 1] is None for i in (3, 4)):
            return None
        starts, ends = known[0], known[1]
        axes = known[2] or tuple(range(len(starts)))
        steps = known[3] or (1,) * len(starts)
    cuts: list[Cut] = []
    for start, end, axis, step in zip(starts, ends, axes, steps):
        size = dims[axis]
        if not isinstance(size, int):
            return None
        first, last, _ = slice(start, end).indices(size)
        if step != 1 or first >= last:
            return None
        if (first, last) != (0, size):
            cuts.append((axis % len(dims), first, last))
    return [cuts]


def _split(node: Node, dims: Sequence[Dim]) -> list[list[Cut]] | None:
    axis, count = node.int_attr("axis", 0) % len(dims), len(node.outputs)
    whole = dims[axis]
    if not isinstance(whole, int):
        return None
    sizes = node.ints_attr("split") or _numbers(node.operand(1))
    if node.operand(1) is not None and sizes is None:
        return None
    if not sizes:
        size = -(-whole // count)
        sizes = (*(size,) * (count - 1), whole - size * (count - 1))
    if len(sizes) != count or sum(sizes) != whole or min(sizes) < 1:
        return None
    ends = [sum(sizes[: i + 1]) for i in range(count)]
    return [[(axis, end - size, end)] for size, end in zip(sizes, ends)]


def _numbers(value: Value | None) -> tuple[int, ...] | None:
    if value is None or value.const is None:
        return None
    return tuple(int(v) for v in value.const.reshape(-1))
