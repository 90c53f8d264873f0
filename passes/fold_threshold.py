"""Turns the float work between an integer accumulator and a sign or quantiser into compares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from cimc.driver import Pass, PassContext, Rewriter
from cimc.driver.bounds import bounds
from cimc.driver.elementwise import QLINEAR, data_input, rising
from cimc.driver.steps import Steps, chain_axes, chain_axis, find_steps
from cimc.driver.widths import any_width
from cimc.frontend.quantisers import QUANTIZE
from cimc.frontend.windows import pool_attrs
from cimc.ir.graph import Graph, Node, Value
from cimc.ir.types import elem_of, is_float, is_integer, is_small, planes

_LAYOUT = ("cim.reshape", "cim.transpose")


@dataclass(frozen=True)
class _Chain:
    """What lies between an integer and a sign: operations from the sign upwards, the index of
    a MaxPool among them (or None), the integer."""

    nodes: tuple[Node, ...]
    pool: int | None
    source: Value


_ENDS = ("cim.sign", "cim.quantize", *QUANTIZE, *QLINEAR)
_MOST = 1 << 20  # entries of a table of thresholds


def _plain_end(node: Node) -> bool:
    """Whether the operation makes integers of at most 8 bits from each element alone."""
    if node.op == "cim.sign":
        return True
    made, index = node.output.elem, data_input(node)
    if index is None or not is_small(made):
        return False
    if node.op in QLINEAR:
        return node.arg(index).tensor.shape == node.output.tensor.shape
    return index == 0 and rising(node)


def _worth(end: Node, chain: _Chain) -> bool:
    """Whether a compare with each level is the way: bytes have tables, see fold-lut, unless
    channels differ."""
    if end.op == "cim.sign":
        return True
    source = chain.source
    if is_small(source.elem) and not chain_axes(chain.nodes, source):
        return False
    channels = (source.tensor.shape or (0, 0))[1:2] or (1,)
    size = channels[0] if isinstance(channels[0], int) else 1
    return size << planes(end.output.elem) <= _MOST


def _climb(rw: Rewriter, sign: Node) -> _Chain | None:
    """The longest chain of element-wise operations, and at most one MaxPool, above a sign or
    quantiser that begins at an integer."""
    value, nodes, pool = sign.arg(data_input(sign) or 0), [sign], None
    found: _Chain | None = None
    while True:
        if is_integer(value.elem) and value.const is None:
            inside = pool if pool is not None and pool < len(nodes) else None
            found = _Chain(tuple(nodes), inside, value)
        node = rw.producer(value)
        if node is None:
            return found
        if node.op == "onnx.MaxPool" and pool is None and len(node.outputs) == 1:
            pool = len(nodes)
            nodes.append(node)
            value = node.arg(0)
            continue
        index = data_input(node)
        if index is None or not _plain(node, node.arg(index)):
            return found
        nodes.append(node)
        value = node.arg(index)


def _plain(node: Node, x: Value) -> bool:
    """Whether the operation keeps the shape, and works on floats or natively."""
    native = node.op.startswith("cim.")
    return x.tensor.shape == node.output.tensor.shape and (native or is_float(node.output.elem))


def _clone(rw: Rewriter, nodes: Sequence[Node], x: Value, before: Node) -> Value:
    """The operations, given from the last to the first, applied to x."""
    for node in reversed(nodes):
        index = data_input(node)
        assert index is not None
        inputs: list[Any] = list(node.inputs)
        inputs[index] = x
        shape = x.tensor.with_elem(node.output.elem)
        x = rw.op(node.op, inputs, f"{node.output.name}.unpooled", before, dict(node.attrs), shape)
    return x


def _move_pool(rw: Rewriter, chain: _Chain) -> bool:
    """Rules 2 and 3: the pool out of the chain, below the sign or above the first operation."""
    assert chain.pool is not None
    sign, pool = chain.nodes[0], chain.nodes[chain.pool]
    after, before = chain.nodes[: chain.pool], chain.nodes[chain.pool + 1 :]
    attrs = pool_attrs(pool)
    if attrs is None:
        return False
    if max(chain_axes(chain.nodes, chain.source), default=0) > 1:
        return False  # a map that differs within a window does not commute with its maximum
    shape = pool.output.tensor
    if all(rising(n) for n in after):
        bits = _clone(rw, after, pool.arg(0), sign)
        rw.replace(sign.output, rw.op("cim.max_pool", [bits], sign.output.name, sign, attrs, shape))
        return True
    if all(rising(n) for n in before):
        pooled = rw.op("cim.max_pool", [chain.source], f"{pool.output.name}.q", pool, attrs, shape)
        rw.replace(pool.output, _clone(rw, before, pooled, pool))
        return True
    return False


def _emit(rw: Rewriter, chain: _Chain, axis: int, steps: Steps) -> bool:
    """Rule 1, and rules 4 and 5: the compare goes above pools and layout where it may."""
    sign, q = chain.nodes[0], chain.source
    below: list[Node] = []
    while True:
        node = rw.producer(q, "cim.max_pool", *_LAYOUT)
        if node is None or (node.op == "cim.max_pool" and (steps.flipped or axis > 1)):
            break
        if node.op == "cim.transpose" and axis >= 0:
            axis = node.ints_attr("perm")[axis]
        elif node.op == "cim.reshape" and (axis >= 0 or len(node.arg(0).tensor.shape or ()) < 2):
            break
        below.append(node)
        q = node.arg(0)
    rank = len(q.tensor.shape or ())
    along = axis if axis >= 0 else rank - 1 if rw.producer(q, "cim.matmul") else 1
    channels = (q.tensor.shape or ())[along]
    if not isinstance(channels, int):
        return False
    name = sign.output.name
    if steps.keeps(q.elem):
        rw.replace(sign.output, _again(rw, below, q, name, sign))
        return True
    first = rw.producer(q, "cim.sign")
    at_zero = steps.at_zero(q.elem)
    if first is not None and at_zero:
        out = rw.op("cim.sign", [first.arg(0)], name, sign, {"zero": at_zero})
        rw.replace(sign.output, _again(rw, below, out, name, sign))
        return True
    th, flip = steps.tables(channels)
    inputs = [q, rw.const(f"{name}.th", th, elem_of(th.dtype))]
    if flip is not None:
        inputs.append(rw.const(f"{name}.flip", flip, "bip"))
    attrs: dict[str, Any] = {"axis": along} if along != 1 else {}
    if steps.to != "bip":
        attrs["to"] = steps.to
    out = rw.op("cim.threshold", inputs, f"{name}.bits" if below else name, sign, attrs)
    rw.replace(sign.output, _again(rw, below, out, name, sign))
    return True


def _again(rw: Rewriter, below: Sequence[Node], x: Value, name: str, before: Node) -> Value:
    """The pools and layout operations that the compare went above, now on its result."""
    for node in reversed(below):
        x = rw.op(node.op, [x], f"{name}.bits", before, dict(node.attrs), node.output.tensor)
    return x


def _below_pool(rw: Rewriter, sign: Node) -> _Chain | None:
    """The part of a chain below its pool, if an integer lies there."""
    chain = _climb(rw, sign)
    if chain is None or chain.pool is None:
        return chain
    for end in range(chain.pool - 1, 0, -1):
        index = data_input(chain.nodes[end])
        source = chain.nodes[end].arg(index) if index is not None else None
        if source is not None and is_integer(source.elem):
            return replace(chain, nodes=chain.nodes[: end + 1], pool=None, source=source)
    return None


@dataclass(frozen=True)
class FoldThreshold(Pass):
    """Rules (q an integer, f, g float maps of each element, d = cim.dequant):
    1. `cim.sign(f(d(q)))` ⇒ `cim.threshold(q, th)`: th is found by running f on every integer
       that q can reach (its own float32 operations, in onnxruntime), or by bisection if those
       are too many and f never decreases. A falling f flips the channel, a flat one is constant.
    2. `cim.sign(g(MaxPool(f(d(q)))))`, g rising ⇒ `cim.max_pool(cim.sign(g(f(d(q)))))`
    3. the same with g not rising, f rising ⇒ `cim.sign(g(f(d(cim.max_pool(q)))))`
    4. `cim.threshold(cim.max_pool(q))` without flips ⇒ `cim.max_pool(cim.threshold(q))`
    5. `cim.threshold(cim.transpose(q))` ⇒ `cim.transpose(cim.threshold(q))`, the axis mapped;
       `cim.threshold(cim.reshape(q))` with one threshold ⇒ `cim.reshape(cim.threshold(q))`
    6. `cim.sign(f(d(q)))` with q bip and f keeping the sign ⇒ q
    7. `cim.sign(f(d(cim.sign(x) zero=0)))` with f keeping the sign ⇒ `cim.sign(x) zero=±1`
    8. rules 1 to 5 for `QuantizeLinear` and `cim.quantize` of at most 8 bits in the place of the
       sign, q wider than 8 bits or channels that differ: one threshold for each level
    9. the same for `QLinearAdd` and `QLinearMul` with a constant that differs by channel
    10. levels of rule 8 that are never reached, as behind a Clip, need no bit planes where only
       layers without a zero point read the result: u8 ⇒ u4
    """

    name = "fold-threshold"
    summary = "turn the float map and sign or quantiser after an accumulator into compares"
    kind = "exact"
    repeat = True

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        rw = Rewriter(graph)
        # The last sign first: its chain reaches through earlier ones, which then go.
        for sign in [n for n in reversed(graph.nodes) if n.op in _ENDS]:
            chain = _climb(rw, sign) if _plain_end(sign) else None
            if chain is None or not _worth(sign, chain):
                continue
            if chain.pool is not None:
                if _move_pool(rw, chain):
                    continue
                chain = _below_pool(rw, sign)
                if chain is None:
                    continue
            axis = chain_axis(chain.nodes, chain.source)
            if axis is None:
                continue
            channels = (chain.source.tensor.shape or ())[axis] if axis >= 0 else 1
            reach = bounds(chain.source, rw.made)
            steps = find_steps(chain.nodes[::-1], chain.source, reach, axis, channels, graph.opsets)
            if steps is not None:
                if any_width(rw, sign.output):
                    steps = steps.narrowed(reach.low, reach.high)
                _emit(rw, chain, axis, steps)
        if rw.changed:
            graph.remove_dead()
            rw.retype()
        return rw.changed
