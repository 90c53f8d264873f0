"""Hypothesis strategies of the tests of exactness: each adds a drawn part to a Net.

A strategy function takes `draw` first, so that the parts of a network can depend on the
shapes that came before.
"""

from __future__ import annotations

import numpy as np
from exact_check import FAST, PASSES
from exact_nets import QONNX, out_sizes
from hypothesis import Phase, settings
from hypothesis import strategies as st

SUBSETS = ("and", "nand", "or", "xor", "and,nand,or,xor")
WEIGHTS = ("bip", "alpha", "alphas", "tern", "terns")
SEEDS = st.integers(0, 2**32 - 1)


def cases(count):
    """Settings of a property test with `count` cases, the same ones in every run.

    A failing case is not shrunk, which takes minutes; it is reported as ONNX text."""
    return settings(
        max_examples=count,
        deadline=None,
        derandomize=True,
        database=None,
        phases=(Phase.explicit, Phase.generate),
    )


def geometry(draw, net):
    """Options of a compilation: tiny tiles, allocation strategy, functions of the target.

    A target with XOR alone only where no weights are ternary: times integers they need AND."""
    subsets = [s for s in SUBSETS if s != "xor" or not net.ternary]
    return {
        "rows": draw(st.integers(2, 16)),
        "cols": draw(st.integers(1, 20)),
        "functions": draw(st.sampled_from(subsets)),
        "pipeline": draw(st.sampled_from([PASSES, FAST])),
    }


# -- to bits --


def _where(net, x, op, right, *levels):
    return net.op("Where", net.op(op, x, right), *levels, shape=net.shapes[x])


def _cast(net, x, op, right):
    return net.op("Cast", net.op(op, x, right), to=1)


_SIGN_FORMS = {  # two or three levels around zero
    "Sign": lambda n, x: n.op("Sign", x),
    "Greater": lambda n, x: _where(n, x, "Greater", 0.0, 1.0, -1.0),
    "GreaterOrEqual": lambda n, x: _where(n, x, "GreaterOrEqual", 0.0, 1.0, -1.0),
    "Less": lambda n, x: _where(n, x, "Less", 0.0, -1.0, 1.0),
    "LessOrEqual": lambda n, x: _where(n, x, "LessOrEqual", 0.0, -1.0, 1.0),
    "falling": lambda n, x: _where(n, x, "Greater", 0.0, -1.0, 1.0),
    "swapped": lambda n, x: n.op("Where", n.op("Less", n.const(0.0), x, shape=n.shapes[x]), 1.0,
                                 -1.0),
    "Not": lambda n, x: n.op("Where", n.op("Not", n.op("Less", x, 0.0)), 1.0, -1.0),
    "Not Not": lambda n, x: n.op("Where", n.op("Not", n.op("Not", n.op("Greater", x, 0.0))), 0.5,
                                 -0.5),
    "2c-1": lambda n, x: n.op("Sub", n.op("Mul", _cast(n, x, "GreaterOrEqual", 0.0), 2.0), 1.0),
    "1-2c": lambda n, x: n.op("Sub", n.const(1.0), n.op("Mul", _cast(n, x, "Less", 0.0), 2.0),
                              shape=n.shapes[x]),
    "clipped": lambda n, x: n.op("Sign", n.op("Clip", x, -1.0, 1.0)),
    "half": lambda n, x: _where(n, x, "Greater", 0.0, 0.5, -0.5),
    "scaled": lambda n, x: n.op("Mul", n.op("Sign", x), 4.0),
    "nudged": lambda n, x: n.op("Sign", n.op("Add", n.op("Sign", x), 0.1)),
    "negated": lambda n, x: n.op("Neg", n.op("Sign", x)),
}  # fmt: skip
_BIT_FORMS = {  # 0 and a
    "Cast": lambda n, x: _cast(n, x, "Greater", 0.0),
    "Cast Not": lambda n, x: n.op("Cast", n.op("Not", n.op("Less", x, 0.0)), to=1),
    "Where": lambda n, x: _where(n, x, "LessOrEqual", 0.0, 0.0, 2.0),
    "Where falling": lambda n, x: _where(n, x, "GreaterOrEqual", 0.0, 0.0, 1.0),
    "Relu": lambda n, x: n.op("Relu", n.op("Sign", x)),
    "Clip Sign": lambda n, x: n.op("Clip", n.op("Sign", x), 0.0, 1.0),
    "Clip": lambda n, x: n.op("Clip", _where(n, x, "Greater", 0.0, 1.0, -1.0), 0.0, 1.0),
}
_QONNX_FORMS = {
    "BipolarQuant": lambda n, x: n.op("BipolarQuant", x, 0.5, domain=QONNX),
    "Quant": lambda n, x: n.op("Quant", x, 2.0, 0.0, 1.0, domain=QONNX, signed=1, narrow=0,
                               rounding_mode="ROUND"),
}  # fmt: skip
FORMS = _SIGN_FORMS | _BIT_FORMS | _QONNX_FORMS
PLAIN_FORMS = tuple(_SIGN_FORMS | _BIT_FORMS)
"""Forms that onnxruntime knows."""


def binarise(draw, net, x, forms=PLAIN_FORMS):
    """x as two or three levels, in one of `forms`; perhaps compared with a threshold."""
    if draw(st.integers(0, 3)) == 0:
        values = net.per_channel(x, net.reach(x) / 2)
        level = draw(st.sampled_from(["Greater", "GreaterOrEqual", "Less", "LessOrEqual"]))
        return _where(net, x, level, values, 1.0, -1.0)
    return FORMS[draw(st.sampled_from(forms))](net, x)


def plain(forms=PLAIN_FORMS):
    """A strategy for the name of a form."""
    return st.sampled_from(forms)


# -- float work between a layer and a sign --


def _batch_norm(draw, net, x):
    channels = net.shapes[x][1]
    small = 1e-30 if net.huge else 0.0  # infinity times 0 would be NaN, which has no sign
    kinds = {
        "exact": 1.0,  # reaches zero exactly where the sum is the mean
        "falling": -1.0,
        "zero": small,
        "tiny": 1e-30,
        "huge": 1e30,
        "mixed": net.rng.choice([-3e8, -0.37, -1e-9, small, 1e-9, 0.71, 3e8], channels),
    }
    kind = draw(st.sampled_from(list(kinds)))
    net.huge |= kind == "huge"
    scale = np.broadcast_to(np.float32(kinds[kind]), channels)
    bias = net.rng.choice([0.0, 0.0, 0.3, -1.7], channels)
    if kind == "mixed":
        var = np.abs(net.rng.standard_normal(channels)) + 0.01
        return net.batch_norm(x, scale, bias, net.rng.standard_normal(channels) * 3, var)
    return net.batch_norm(x, scale, bias, net.reach(x), np.ones(channels))


def _affine(op):
    def add(draw, net, x):
        channels = net.shapes[x][1]
        if draw(st.booleans()):
            value = np.float32(draw(st.sampled_from([0.5, -0.3, 3.0, -2.0, 1e20])))
            net.huge |= bool(value > 1e9)
        else:
            values = net.rng.choice([-2.0, -0.37, 0.25, 1.0, 3.0], channels)
            value = net.per_channel(x, values)
        if op == "Sub" and draw(st.booleans()):
            return net.op("Sub", net.const(value), x, shape=net.shapes[x])
        return net.op(op, x, value)

    return add


MAPS = {
    "batch norm": _batch_norm,
    "batch norm again": _batch_norm,
    "Mul": _affine("Mul"),
    "Add": _affine("Add"),
    "Sub": _affine("Sub"),
    "Div": _affine("Div"),
    "Relu": lambda draw, net, x: net.op("Relu", x),
    "Clip": lambda draw, net, x: net.op("Clip", x, -2.5, 3.0),
    "LeakyRelu": lambda draw, net, x: net.op(
        "LeakyRelu", x, alpha=draw(st.sampled_from([0.1, -0.5]))),
    "PRelu": lambda draw, net, x: net.op("PRelu", x, net.per_channel(
        x, net.rng.choice([0.25, 0.1], net.shapes[x][1]))[0]),
}  # fmt: skip


def float_work(draw, net, x, most=3):
    """A chain of maps of each element."""
    for name in draw(st.lists(st.sampled_from(list(MAPS)), max_size=most)):
        x = MAPS[name](draw, net, x)
    return x


# -- windows --


def window(draw, sizes, widest=3, pool=False):
    """(kernel, attributes) of a window that fits `sizes`."""
    rank = len(sizes)
    kernel = [draw(st.integers(1, widest)) for _ in sizes]
    attrs = {}
    if draw(st.booleans()):
        attrs["strides"] = [draw(st.integers(1, 3)) for _ in sizes]
    auto = draw(st.sampled_from([None, None, None, "SAME_UPPER", "SAME_LOWER", "VALID"]))
    if auto in (None, "VALID") and draw(st.booleans()):  # onnxruntime has no SAME with dilation
        attrs["dilations"] = [draw(st.integers(1, 2)) for _ in sizes]
    if auto is not None:
        attrs["auto_pad"] = auto
    else:
        # a pool's padding must be smaller than its kernel
        most = [k - 1 if pool else 2 for k in kernel] * 2
        attrs["pads"] = [draw(st.integers(0, min(2, m))) for m in most]
    if pool and auto and auto.startswith("SAME") and "strides" in attrs:
        # onnxruntime refuses a stride beyond the kernel here: its padding would be negative
        attrs["strides"] = [min(s, k) for s, k in zip(attrs["strides"], kernel)]
    if pool and auto is None and draw(st.booleans()):
        attrs["ceil_mode"] = 1
    if min(out_sizes(sizes, kernel, **attrs), default=1) < 1 or _one_too_many(sizes, kernel, attrs):
        return [1] * rank, {}
    return kernel, attrs


def _one_too_many(sizes, kernel, attrs):
    """Whether ceil_mode would leave out a last window that begins beyond the input, which the
    shape inference of onnxruntime counts: it refuses some of these models."""
    if not attrs.get("ceil_mode"):
        return False
    rank = len(sizes)
    strides = attrs.get("strides") or [1] * rank
    begins, ends = attrs["pads"][:rank], attrs["pads"][rank:]
    wider = [*begins, *(end + stride - 1 for end, stride in zip(ends, strides))]
    floor = {**attrs, "ceil_mode": 0, "pads": wider}
    return out_sizes(sizes, kernel, **floor) != out_sizes(sizes, kernel, **attrs)


def max_pool(draw, net, x):
    """A MaxPool whose windows may overlap, be padded or dilated."""
    kernel, attrs = window(draw, net.shapes[x][2:], pool=True)
    return net.max_pool(x, kernel, **attrs)


# -- layers --


def conv(draw, net, x, kinds=WEIGHTS, most=12, bias=True):
    """A Conv with drawn window, groups, weights and perhaps a bias."""
    channels = net.shapes[x][1]
    kernel, attrs = window(draw, net.shapes[x][2:])
    group = draw(st.sampled_from([g for g in range(1, channels + 1) if channels % g == 0]))
    out = group * draw(st.integers(1, max(1, most // group)))
    values = None
    if bias and draw(st.booleans()):
        values = net.rng.choice([0.0, -3.0, 0.3, 1e9], out)
    kind = draw(st.sampled_from(kinds))
    return net.conv(x, out, kernel, kind, values, group, **attrs)
