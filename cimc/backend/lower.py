"""Placed graph to program: buffers, data, `.load`, `.infer` and `.update`.

Reads what legalise, split-tiles and allocate-tiles decided; decides nothing itself but
which thresholds and requantised sums are stored straight from the accumulators, and which
concatenations are copied as one.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from math import prod
from typing import Any

import numpy as np

from cimc.backend import layers, similar, takes
from cimc.backend.buffers import Buffers
from cimc.backend.corrections import Terms, correction_terms
from cimc.backend.nest import Nest, nests
from cimc.backend.tables import narrowest, scales_of
from cimc.driver.base import Geometry
from cimc.driver.recipes import recipe
from cimc.frontend.export import to_onnx
from cimc.frontend.macs import graph_macs, macs
from cimc.ir.graph import Graph, Node, Value, layer_name
from cimc.ir.kernels import KernelShape, cells, kernel_shape
from cimc.ir.names import Names
from cimc.ir.ops import HOST, LAYERS
from cimc.ir.rules import input_planes, window
from cimc.ir.types import Array, container
from cimc.isa.program import (
    Affine,
    Data,
    Instr,
    Layer,
    Loop,
    Option,
    Program,
    Range,
    Ref,
    Refs,
    Section,
    TargetLine,
    Win,
)


def lower(
    graph: Graph, geometry: Geometry, target: str, pipeline: str, batch: Mapping[str, int]
) -> Program:
    """The program of a placed graph.

    target: the target's name, for the header. pipeline: what `-p` said. batch: axis of each
    input along which samples are fed, by ONNX name.
    """
    return _Lowering(graph, geometry, batch).program(target, pipeline)


class _Lowering:
    def __init__(self, graph: Graph, geometry: Geometry, batch: Mapping[str, int]) -> None:
        self.graph = graph
        self.geometry = geometry
        self.buffers = Buffers(graph, batch)
        self.users = graph.users()
        self.made = graph.producers()
        self.wins: list[Win] = []
        self.data: dict[str, Data] = {}
        self.names: dict[Value, str] = {}
        self.scales: dict[tuple[str, int], str] = {}
        self.load: list[Layer] = []
        self.infer: list[Layer] = []
        self.update: list[Layer] = []
        self.fused: set[Node] = set()
        self.programmed: set[Value] = set()
        self.label = Names().fresh

    def program(self, target: str, pipeline: str) -> Program:
        for node in self.graph.nodes:
            self._node(node)
        self.buffers.mark_outputs()
        gap = ("",)
        sections = [Section("load", self.load, before=gap)] if self.load else []
        sections.append(Section("infer", self.infer, before=gap))
        if self.update:
            sections.append(Section("update", self.update, before=gap))
        data = list(self.data.values())
        if data:
            data[0].before = gap
        return Program(
            target=self._target_line(target),
            pipeline=pipeline,
            decls=[*self.buffers.decls, *self.wins],
            sections=sections,
            data=data,
        )

    def _target_line(self, name: str) -> TargetLine:
        used = 0
        for place in self.graph.places:
            assert place.tile is not None
            used = max(used, place.tile + -(-place.count // place.per_tile))
        g = self.geometry
        return TargetLine(
            name, g.rows, g.cols, max(used, g.tiles or 0), tuple(sorted(g.functions)), g.acc_bits
        )

    def _node(self, node: Node) -> None:
        if node.op == HOST:
            self._host(node)
        elif node.op in LAYERS:
            self._layer(node)
        elif node.op == "cim.concat":
            self._concat(node)
        elif node.op in ("cim.slice", "cim.take") and node not in self.fused:
            self._copies(node)
        elif node.op == "cim.similar":
            self._similar(node)
        elif node.op in _ELEMENTWISE and node not in self.fused:
            self._between(node)

    # -- the search for similar kernels --

    def _similar(self, node: Node) -> None:
        """The search among the kernels of the layer that has them."""
        w, label = node.arg(0), self.label(layer_name(node))
        layer = next(n for n in self.graph.nodes if n.op in LAYERS and n.arg(1) is w)
        places = [p for p in self.graph.places if p.value is w]
        mask = self.buffers.name(node.output)
        scratch = partial(self.buffers.scratch, label)
        body, note = similar.search(node, layer, places, self.geometry.cols, mask, scratch)
        self.update.append(Layer(label, body, after=note))

    # -- host fragments --

    def _host(self, node: Node) -> None:
        (body,) = node.graphs()
        label = self.label(body.name)
        body.opsets = dict(self.graph.opsets)
        model = to_onnx(body).SerializeToString(deterministic=True)
        name = self.buffers.fresh(f"{label}.onnx")
        self.data[name] = Data(
            name, "onnx", np.frombuffer(model, np.uint8), macs=graph_macs(body), why=node.why or ""
        )
        ins = Refs(tuple(self.buffers.name(v) for v in node.inputs if v is not None))
        outs = Refs(tuple(self.buffers.name(v) for v in node.outputs))
        self.infer.append(Layer(label, [Instr("host", (Ref(name), ins, outs))]))

    # -- layers --

    def _layer(self, node: Node) -> None:
        x, w = node.arg(0), node.arg(1)
        label = self.label(layer_name(node))
        places = [p for p in self.graph.places if p.value is w]
        width = places[0].width if places else 0
        shape = kernel_shape(node, width)
        matrix = self._cells(node, width)
        groups = node.int_attr("group", 1)
        runs = nests(places, shape, groups)
        if w not in self.programmed:
            self.programmed.add(w)
            body: layers.Body = []
            for nest in runs:
                body += layers.program_cells(nest, matrix, shape.planes, shape.channels)
            self.load.append(Layer(label, body))
        given = correction_terms(node)
        load, positions = self._input(node, label, shape, width, given)
        functions = self.geometry.functions
        reads = recipe(x.elem, w.elem, functions, shape.pack > 1)
        plan = layers.Plan(
            load,
            reads,
            self._corrections(given, label, (node.output.tensor.static or (1,))[0]),
            tuple(self._stores(node, shape, runs)),
            shape.channels * shape.pack,
            shape.pack,
        )
        body = layers.layer(runs, plan, positions)
        kind = "x".join(str(d) for d in (w.tensor.shape or ()))
        note = f"# {kind}, {x.elem} x {w.elem}, {macs(node)} MACs"
        self.infer.append(Layer(label, body, after=note))

    def _cells(self, node: Node, width: int) -> str:
        """The data item with the cells of a layer's weights; shared by layers that share them."""
        w = node.arg(1)
        if w not in self.names:
            name = self.buffers.fresh(w.name)
            columns = kernel_shape(node, width).columns
            seg = width if columns > width else 0
            self.data[name] = Data(name, "cells", cells(node, width), seg=seg)
            self.names[w] = name
        return self.names[w]

    def _corrections(self, given: Terms, label: str, images: int) -> layers.Corrections:
        """The terms as data items. A start of each position counts the positions of all images,
        and may be large: it has the narrowest type."""
        zero = None if given.zero is None else self._element(given.zero)
        start, at, kind = given.start, None, "i32"
        if start is not None and start.ndim > 1:
            start, at, kind = np.tile(start, (images, 1)), layers.POSITION, narrowest(start)
            start = start.astype(container(kind))
        names = [
            None if table is None else self._new_table(f"{label}.{suffix}", elem, table)
            for suffix, elem, table in (
                ("start", kind, start), ("by_zero", "i32", given.by_zero),
                ("by_sum", "i32", given.by_sum),
            )
        ]  # fmt: skip
        return layers.Corrections(names[0], at, zero, names[1], names[2])

    def _element(self, value: Value) -> Ref:
        """The one element of a buffer."""
        return Ref(self.buffers.name(value), Affine())

    def _input(
        self, node: Node, label: str, shape: KernelShape, width: int, given: Terms
    ) -> tuple[layers.Load, int]:
        """The latch load of a layer, and the number of its positions."""
        x = node.arg(0)
        planes, negative = input_planes(x.elem), x.elem[0] == "i"
        signs = x.elem in ("bip", "tern")
        dims = node.output.tensor.static
        assert dims is not None
        if node.op == "cim.matmul":
            source = self.buffers.along(x, len(dims) - 1)
            load = layers.Load(source, None, width, 1, planes, negative, signs=signs)
            return load, prod(dims[:-1])
        attrs: dict[str, Any] = {"strides": (), "pads": (), "dilations": (), "group": 1, "up": ()}
        attrs |= node.attrs
        kernel = (node.arg(1).tensor.static or ())[2:]
        strides, pads, dilations = window(attrs, len(kernel))
        channels = (x.tensor.static or ())[1]
        win = Win(
            self.buffers.fresh(f"{label}.win"), channels, kernel, dims[2:], strides, pads,
            dilations, attrs["group"], seg=width if shape.columns > width else 0,
            pack=shape.pack, up=attrs["up"] or (1,) * len(kernel),
        )  # fmt: skip
        self.wins.append(win)
        pad: Affine | Ref | None = None
        if any(pads) or any(k > 1 for k in win.up):  # else no tap is outside
            pad = None if given.pad is None else Affine(given.pad)
            pad = pad if given.zero is None else self._element(given.zero)
        source = self.buffers.along(x, 1)
        load = layers.Load(source, win.name, 0, attrs["group"], planes, negative, pad, signs)
        return load, dims[0] * prod(dims[2:])

    def _stores(
        self, node: Node, shape: KernelShape, nests: Sequence[Nest]
    ) -> Iterator[layers.Store]:
        """What is stored of a layer's sums: those that a cim.take chooses at once as well."""
        axis = 1 if node.op == "cim.conv" else len(node.output.tensor.shape or ()) - 1
        taken: dict[Value, layers.Store] = {}
        groups = node.int_attr("group", 1)
        for user in self.users.get(node.output, ()):
            table = takes.own_sums(user, axis, groups, shape, nests)
            if table is not None:
                self.fused.add(user)
                kind = narrowest(table)
                name = self._new_table(user.arg(1).name, kind, table.astype(container(kind)))
                taken[user.output] = layers.Store("", take=name, channels=len(table) // groups)
        yield from self._stores_of(node.output, axis, layers.Store(""), taken)
        for value, store in taken.items():
            yield from self._stores_of(value, axis, store, {})

    def _stores_of(
        self, acc: Value, axis: int, store: layers.Store, others: Container[Value]
    ) -> Iterator[layers.Store]:
        """Thresholds and scales of the channels are applied to the accumulators as they are
        stored; the sums themselves are stored only if someone else needs them."""
        rest = acc in self.graph.outputs
        for user in self.users.get(acc, ()):
            if user.outputs[0] in others:
                continue
            if user.op not in _STORED or self._axis(user) not in (axis, -1):
                rest = True
                continue
            self.fused.add(user)
            found = replace(store, buffer=self.buffers.along(user.output, axis))
            if user.op == "cim.threshold":
                th, flip = self._tables(user)
                yield replace(found, thresholds=th, flips=flip)
                continue
            scales = self._scales(user, (acc.tensor.static or ())[axis])
            yield replace(found, scales=scales, zero=user.int_attr("zero", 0))
        if rest:
            yield replace(store, buffer=self.buffers.along(acc, axis))

    def _axis(self, node: Node) -> int:
        """The axis along which a threshold or requantisation has its constants; -1 for any."""
        if node.op == "cim.requant" and node.arg(1).tensor.static == (1,):
            return -1
        return node.int_attr("axis", 1)

    def _scales(self, node: Node, channels: int) -> str:
        """The scales of a requantisation, one for each of the channels."""
        scale = node.arg(1).const
        assert scale is not None
        key = node.arg(1).name, channels
        if key not in self.scales:
            self.scales[key] = self._new_table(
                node.arg(1).name, "f32", np.ascontiguousarray(np.broadcast_to(scale, channels))
            )
        return self.scales[key]

    def _tables(self, node: Node) -> tuple[str, str | None]:
        flip = node.operand(2)
        return self._table(node.arg(1)), None if flip is None else self._table(flip)

    def _table(self, value: Value) -> str:
        if value not in self.names:
            assert value.const is not None
            self.names[value] = self._new_table(value.name, value.elem, value.const)
        return self.names[value]

    def _new_table(self, name: str, kind: str, array: Array) -> str:
        name = self.buffers.fresh(name)
        self.data[name] = Data(name, kind, array)
        return name

    # -- between layers --

    def _between(self, node: Node) -> None:
        """An operation on each position: the vectors of its results and operands, then what is
        special to it."""
        dims = node.output.tensor.static
        assert dims is not None
        axis = self._axis(node) if node.op in ("cim.threshold", "cim.requant") else -1
        axis = axis if axis >= 0 else min(1, max(0, len(dims) - 1))
        label = self.label(layer_name(node))
        place = layers.POSITION
        args = [Ref(self.buffers.along(node.output, axis), place)]
        data = [v for v in node.inputs if v is not None and v.const is None]
        args += [Ref(self.buffers.along(v, axis), place) for v in data]
        opts: dict[str, Option] = {}
        if node.op == "cim.threshold":
            th, flip = self._tables(node)
            args.append(Ref(th))
            opts = {} if flip is None else {"flip": Ref(flip)}
        elif node.op == "cim.requant":
            args.append(Ref(self._scales(node, dims[axis])))
            opts = _given(node, "zero")
        elif node.op == "cim.lut":
            args.append(Ref(self._table(node.arg(1))))
        elif node.op == "cim.qadd":
            args.append(Ref(self._new_table(f"{label}.scales", "f32", scales_of(node))))
            opts = _given(node, "fused")
        elif node.op in ("cim.max_pool", "cim.sum_pool"):
            args.append(Ref(self._pool(node, label)))
            opts = _given(node, "zero")
        count = prod(dims[:axis]) * prod(dims[axis + 1 :])
        step = Instr(_ELEMENTWISE[node.op], tuple(args), opts)
        self.infer.append(Layer(label, layers.at_positions(count, [step])))

    def _copies(self, node: Node) -> None:
        """What is cut or taken along an axis, a copy for each run of elements."""
        axis, dims = node.int_attr("axis", 1), node.output.tensor.static
        assert dims is not None
        into, source = (self.buffers.along(v, axis) for v in (node.output, node.arg(0)))
        place, steps = layers.POSITION, list[Instr | Loop]()
        for to, first, size in takes.copies(node, dims[axis]):
            target = None if size == dims[axis] else Range.of(to, size)
            part = Ref(source, place, Range.of(first, size))
            steps.append(Instr("pp.mov", (Ref(into, place, target), part)))
        count = prod(dims[:axis]) * prod(dims[axis + 1 :])
        body = layers.at_positions(count, steps) if steps else []
        self.infer.append(Layer(self.label(layer_name(node)), body))

    def _concat(self, node: Node) -> None:
        """Copies of all parts, of concatenations above that serve nothing else too."""
        users = self.users.get(node.output, ())
        if users and self._joined(node, users[0]):
            return  # its parts are copied where it is joined
        axis, dims = node.int_attr("axis", 1), node.output.tensor.static
        assert dims is not None
        target = self.buffers.along(node.output, axis)
        steps: layers.Body = []
        start, place = 0, layers.POSITION
        for part in self._parts(node):
            size = (part.tensor.static or ())[axis]
            if not size:
                continue
            into = Ref(target, place, Range.of(start, size))
            steps.append(Instr("pp.mov", (into, Ref(self.buffers.along(part, axis), place))))
            start += size
        count = prod(dims[:axis]) * prod(dims[axis + 1 :])
        label = self.label(layer_name(node))
        self.infer.append(Layer(label, layers.at_positions(count, steps) if steps else []))

    def _parts(self, node: Node) -> list[Value]:
        found: list[Value] = []
        for value in node.inputs:
            assert value is not None
            above = self.made.get(value)
            found += (
                [value] if above is None or not self._joined(above, node) else self._parts(above)
            )
        return found

    def _joined(self, node: Node, other: Node) -> bool:
        """Whether a concatenation is only part of another one, and of its like."""
        users = self.users.get(node.output, ())
        alone = _joins(node, other) and node.output not in self.graph.outputs
        return alone and all(_joins(node, user) for user in users)

    def _pool(self, node: Node, label: str) -> str:
        attrs: dict[str, Any] = {"strides": (), "pads": (), "dilations": ()} | node.attrs
        kernel = attrs["kernel"]
        strides, pads, dilations = window(attrs, len(kernel))
        dims = node.output.tensor.static or ()
        win = Win(
            self.buffers.fresh(f"{label}.win"), dims[1], kernel, dims[2:], strides, pads, dilations
        )
        self.wins.append(win)
        return win.name


def _joins(node: Node, other: Node) -> bool:
    """Whether both are concatenations along one axis."""
    ops = {node.op, other.op}
    return ops == {"cim.concat"} and node.int_attr("axis", 1) == other.int_attr("axis", 1)


def _given(node: Node, name: str) -> dict[str, Option]:
    """An attribute as option, unless it is zero."""
    value = node.int_attr(name, 0)
    return {name: Affine(value)} if value else {}


_STORED = ("cim.threshold", "cim.requant")  # what stores do with sums
_ELEMENTWISE = {
    "cim.threshold": "pp.ge",
    "cim.max_pool": "pp.max",
    "cim.add": "pp.add",
    "cim.relu": "pp.relu",
    "cim.requant": "pp.rq",
    "cim.lut": "pp.lut",
    "cim.sum_pool": "pp.sum",
    "cim.qadd": "pp.qadd",
}
