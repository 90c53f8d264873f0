"""Padding in front of a convolution."""

from __future__ import annotations

import numpy as np

from cimc.driver.rewrite import Rewriter, scalar
from cimc.ir.graph import Value


def unpadded(rw: Rewriter, x: Value) -> tuple[Value, tuple[int, ...]]:
    """The image below a Pad that puts zeros around it, and those pads; else x and none."""
    pad = rw.producer(x, "onnx.Pad")
    if pad is None or pad.attrs.get("mode", "constant") != "constant":
        return x, ()
    fill, axes = (pad.inputs[k] if len(pad.inputs) > k else None for k in (2, 3))
    sizes = pad.arg(1).const if len(pad.inputs) > 1 else np.asarray(pad.ints_attr("pads"))
    zeros = pad.float_attr("value", 0.0) == 0.0 and (fill is None or scalar(fill) == 0.0)
    if sizes is None or axes is not None or not zeros:
        return x, ()
    pads: list[int] = sizes.astype(np.int64).tolist()
    rank = len(pads) // 2
    if min(pads, default=0) < 0 or any((*pads[:2], *pads[rank : rank + 2])):
        return x, ()
    return pad.arg(0), (*pads[2:rank], *pads[rank + 2 :])
