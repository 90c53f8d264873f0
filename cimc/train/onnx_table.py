"""How each supported module, function and method is written in ONNX. One rule is one function."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as nnf
from onnx import TensorProto
from torch import Tensor, fx, nn

from cimc.train import layers, quantisers
from cimc.train.onnx_nodes import Emitter
from cimc.train.trace import shape


class Unfit(Exception):
    """Arguments that have no form in ONNX, or none here; the message says which."""


@dataclass(frozen=True)
class Call:
    """One operation. args, kwargs: names of tensors where the forward has tensors, constant
    tensors and plain values as they are."""

    emit: Emitter
    name: str
    module: Any
    node: fx.Node
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def arg(self, index: int, name: str, default: Any = None) -> Any:
        """By position or name; position 0 is the input."""
        return self.args[index] if len(self.args) > index else self.kwargs.get(name, default)

    @property
    def x(self) -> str:
        found = self.arg(0, "input")
        if not isinstance(found, str):
            raise Unfit("its input is a constant")
        return found

    @property
    def rank(self) -> int:
        return len(shape(self.node) or ())

    def input_shape(self) -> tuple[int, ...]:
        return shape(self.node.all_input_nodes[0]) or ()


Emit = Callable[[Call], str]


def _pair(value: Any) -> list[int]:
    return [value, value] if isinstance(value, int) else [int(v) for v in value]


# -- layers ------------------------------------------------------------------------------------


def _conv_attributes(m: nn.Conv2d) -> dict[str, Any]:
    if m.padding_mode != "zeros":
        raise Unfit(f"padding_mode='{m.padding_mode}': only zeros are supported")
    if isinstance(m.padding, str):
        raise Unfit(f"padding='{m.padding}': give numbers")
    return {
        "kernel_shape": _pair(m.kernel_size),
        "strides": _pair(m.stride),
        "pads": _pair(m.padding) * 2,
        "dilations": _pair(m.dilation),
        "group": m.groups,
    }


def _conv(c: Call) -> str:
    e, m = c.emit, c.module
    inputs = [c.x, e.const(f"{c.name}.weight", m.weight)]
    if m.bias is not None:
        inputs.append(e.const(f"{c.name}.bias", m.bias))
    return e.node("Conv", c.name, *inputs, **_conv_attributes(m))


def _linear(c: Call) -> str:
    e, m = c.emit, c.module
    if c.rank == 2:
        inputs = [c.x, e.const(f"{c.name}.weight", m.weight)]
        if m.bias is not None:
            inputs.append(e.const(f"{c.name}.bias", m.bias))
        return e.node("Gemm", c.name, *inputs, transB=1)
    y = e.node("MatMul", c.name, c.x, e.const(f"{c.name}.weight", m.weight.T))
    return y if m.bias is None else e.node("Add", f"{c.name}.add", y, _vector(c, "bias", m.bias, 1))


def _vector(c: Call, what: str, value: Tensor, rank: int) -> str:
    """A constant for each channel, or one, for results of a rank with the batch first."""
    shaped = value.reshape(-1, *(1,) * (rank - 2)) if value.dim() and rank > 2 else value
    return c.emit.const(f"{c.name}.{what}", shaped)


def _levels_in(c: Call) -> str:
    """The input, behind quantisers if its levels are known: the form of integer layers."""
    known = c.emit.levels.get(c.x)
    if known is None:
        return c.x
    return c.emit.quantised(f"{c.name}.x", c.x, 1.0, *known)


def _level_layer(c: Call) -> str:
    """Weights of few levels: the sums, then scale and bias. Weights of k bits behind
    DequantizeLinear."""
    e, m = c.emit, c.module
    levels, scale, x = m.counted_levels(), m.scale(), c.x
    if int(levels.abs().max()) > 1:
        x = _levels_in(c)
        weight = e.dequantised(c.name, levels, scale)
        scale = None
    else:
        weight = e.const(f"{c.name}.weight", levels)
    if isinstance(m, nn.Conv2d):
        y = e.node("Conv", c.name, x, weight, **_conv_attributes(m))
    elif c.rank == 2:
        y = e.node("Gemm", c.name, x, weight, transB=1)
    else:
        turned = e.node("Transpose", f"{c.name}.turn", weight, perm=[1, 0])
        y = e.node("MatMul", c.name, x, turned)
    rank = c.rank if isinstance(m, nn.Conv2d) else 1
    if scale is not None:
        y = e.node("Mul", f"{c.name}.mul", y, _vector(c, "scale", scale, rank))
    if m.bias is not None:
        y = e.node("Add", f"{c.name}.add", y, _vector(c, "bias", m.bias, rank))
    return y


def _batch_norm(c: Call) -> str:
    e, m = c.emit, c.module
    if m.running_mean is None or m.running_var is None:
        raise Unfit("it has no running mean and variance")
    count = m.num_features
    return e.node(
        "BatchNormalization",
        c.name,
        c.x,
        e.const(f"{c.name}.weight", torch.ones(count) if m.weight is None else m.weight),
        e.const(f"{c.name}.bias", torch.zeros(count) if m.bias is None else m.bias),
        e.const(f"{c.name}.mean", m.running_mean),
        e.const(f"{c.name}.var", m.running_var),
        epsilon=m.eps,
    )


def _sign(c: Call) -> str:
    zero = c.module.zero if c.module is not None else c.arg(1, "zero", -1)
    y = c.emit.sign(c.name, c.x, zero)
    c.emit.levels[y] = (-1, 1)
    return y


def _quant_act(c: Call) -> str:
    m = c.module
    return c.emit.quantised(c.name, c.x, float(m.step()), m.low, m.high)


# -- pools and shapes --------------------------------------------------------------------------


def _pool(c: Call, op: str, **more: Any) -> str:
    m = c.module

    def option(index: int, name: str, default: Any) -> Any:
        return getattr(m, name, default) if m is not None else c.arg(index, name, default)

    kernel = _pair(option(1, "kernel_size", None))
    stride = option(2, "stride", None) or kernel
    pads = _pair(option(3, "padding", 0)) * 2
    ceil = option(5 if op == "MaxPool" else 4, "ceil_mode", False)
    if op == "MaxPool" and _pair(option(4, "dilation", 1)) != [1, 1]:
        raise Unfit("pools with dilation are not supported")
    if op == "AveragePool" and (ceil or option(6, "divisor_override", None)):
        raise Unfit("ceil_mode and divisor_override are not supported")
    if op == "AveragePool":
        more["count_include_pad"] = int(option(5, "count_include_pad", True))
    y = c.emit.node(
        op, c.name, c.x, kernel_shape=kernel, strides=_pair(stride), pads=pads,
        ceil_mode=int(ceil), **more,
    )  # fmt: skip
    return _same_levels(c, y) if op == "MaxPool" else y


def _max_pool(c: Call) -> str:
    return _pool(c, "MaxPool")


def _average_pool(c: Call) -> str:
    return _pool(c, "AveragePool")


def _global_pool(c: Call) -> str:
    size = c.module.output_size if c.module is not None else c.arg(1, "output_size")
    if _pair(size) != [1, 1]:
        raise Unfit(f"output size {size}: only 1 is supported")
    return c.emit.node("GlobalAveragePool", c.name, c.x)


def _same_levels(c: Call, y: str) -> str:
    if c.x in c.emit.levels:
        c.emit.levels[y] = c.emit.levels[c.x]
    return y


def _flatten(c: Call) -> str:
    m = c.module
    start = m.start_dim if m is not None else c.arg(1, "start_dim", 0)
    end = m.end_dim if m is not None else c.arg(2, "end_dim", -1)
    if start != 1 or end not in (-1, len(c.input_shape()) - 1):
        raise Unfit("flatten must keep the batch and join all other axes: flatten(1)")
    return _same_levels(c, c.emit.node("Flatten", c.name, c.x, axis=1))


def _reshape(c: Call) -> str:
    target = (0, *(shape(c.node) or ())[1:])
    dims = c.emit.const(f"{c.name}.shape", target, np.int64)
    return _same_levels(c, c.emit.node("Reshape", c.name, c.x, dims))


def _mean(c: Call) -> str:
    rank, axes = len(c.input_shape()), c.arg(1, "dim")
    if axes is None:
        raise Unfit("a mean over all axes, the batch included")
    axes = sorted(a % rank for a in ([axes] if isinstance(axes, int) else axes))
    keep = int(bool(c.arg(2, "keepdim", False)))
    return c.emit.node("ReduceMean", c.name, c.x, axes=axes, keepdims=keep)


def _cat(c: Call) -> str:
    parts = c.arg(0, "tensors")
    if not all(isinstance(p, str) for p in parts):
        raise Unfit("it joins constants")
    return c.emit.node("Concat", c.name, *parts, axis=c.arg(1, "dim", 0) % c.rank)


def _permute(c: Call) -> str:
    order = c.args[1] if len(c.args) == 2 and not isinstance(c.args[1], int) else c.args[1:]
    return c.emit.node("Transpose", c.name, c.x, perm=[int(i) % c.rank for i in order])


# -- elementwise -------------------------------------------------------------------------------


def _plain(op: str) -> Emit:
    return lambda c: c.emit.node(op, c.name, c.x)


def _nothing(c: Call) -> str:
    return c.x


def _relu(c: Call) -> str:
    return c.emit.node("Relu", c.name, c.x)


def _clip(c: Call) -> str:
    m = c.module
    low = m.min_val if m is not None else c.arg(1, "min")
    high = m.max_val if m is not None else c.arg(2, "max")
    names = ["" if v is None else c.emit.const(f"{c.name}.{n}", v) for n, v in
             (("min", low), ("max", high))]  # fmt: skip
    return c.emit.node("Clip", c.name, c.x, *names)


def _leaky_relu(c: Call) -> str:
    slope = c.module.negative_slope if c.module is not None else c.arg(1, "negative_slope", 0.01)
    return c.emit.node("LeakyRelu", c.name, c.x, alpha=float(slope))


def _float(c: Call) -> str:
    if c.node.target == "to" and torch.float32 not in (*c.args, *c.kwargs.values()):
        raise Unfit("`to` of another type than float32")
    y = c.emit.node("Cast", c.name, c.x, to=TensorProto.FLOAT)
    if c.x == "image":
        c.emit.levels[y] = (0, 255)
    return y


def _binary(op: str) -> Emit:
    def emit(c: Call) -> str:
        if c.kwargs:
            raise Unfit(f"the argument {', '.join(c.kwargs)} is not supported")
        operands = []
        for i, value in enumerate(c.args):
            if not isinstance(value, str):
                value = c.emit.const(f"{c.name}.{'ab'[i]}", value)
            operands.append(value)
        return c.emit.node(op, c.name, *operands)

    return emit


MODULES: dict[type, Emit] = {
    layers.LevelConv2d: _level_layer,
    layers.LevelLinear: _level_layer,
    quantisers.Sign: _sign,
    quantisers.QuantAct: _quant_act,
    nn.Conv2d: _conv,
    nn.Linear: _linear,
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
    nn.MaxPool2d: _max_pool,
    nn.AvgPool2d: _average_pool,
    nn.AdaptiveAvgPool2d: _global_pool,
    nn.Flatten: _flatten,
    nn.ReLU: _relu,
    nn.ReLU6: _clip,
    nn.Hardtanh: _clip,
    nn.LeakyReLU: _leaky_relu,
    nn.Sigmoid: _plain("Sigmoid"),
    nn.Tanh: _plain("Tanh"),
    nn.Identity: _nothing,
    nn.Dropout: _nothing,
    nn.Dropout2d: _nothing,
}

FUNCTIONS: dict[Any, Emit] = {
    quantisers.sign: _sign,
    torch.flatten: _flatten,
    torch.relu: _relu,
    nnf.relu: _relu,
    nnf.leaky_relu: _leaky_relu,
    nnf.dropout: _nothing,
    nnf.max_pool2d: _max_pool,
    nnf.avg_pool2d: _average_pool,
    nnf.adaptive_avg_pool2d: _global_pool,
    torch.sigmoid: _plain("Sigmoid"),
    torch.tanh: _plain("Tanh"),
    torch.cat: _cat,
    torch.mean: _mean,
    torch.clamp: _clip,
    torch.reshape: _reshape,
    torch.add: _binary("Add"),
    torch.sub: _binary("Sub"),
    torch.mul: _binary("Mul"),
    torch.div: _binary("Div"),
    operator.add: _binary("Add"),
    operator.sub: _binary("Sub"),
    operator.mul: _binary("Mul"),
    operator.truediv: _binary("Div"),
}

METHODS: dict[str, Emit] = {
    "add": _binary("Add"),
    "clamp": _clip,
    "contiguous": _nothing,
    "div": _binary("Div"),
    "flatten": _flatten,
    "float": _float,
    "mean": _mean,
    "mul": _binary("Mul"),
    "permute": _permute,
    "relu": _relu,
    "reshape": _reshape,
    "sigmoid": _plain("Sigmoid"),
    "sub": _binary("Sub"),
    "tanh": _plain("Tanh"),
    "to": _float,
    "view": _reshape,
}
