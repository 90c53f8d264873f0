"""Placed graph to program: buffers, data, `.load` and `.infer`.

Reads what legalise, split-tiles and allocate-tiles decided; decides nothing itself but
which threshold is stored straight from the accumulators.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np

from cimc.backend import layers, recipes
from cimc.backend.buffers import Buffers
from cimc.backend.nest import nests
from cimc.driver.base import Geometry
from cimc.frontend.export import to_onnx
from cimc.frontend.macs import graph_macs, macs
from cimc.ir.graph import Graph, Node, Value, layer_name
from cimc.ir.kernels import cells, kernel_shape
from cimc.ir.names import Names
from cimc.ir.ops import HOST
from cimc.ir.rules import input_planes, window
from cimc.isa.program import (
    Data,
    Instr,
    Layer,
    Program,
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
        self.wins: list[Win] = []
        self.data: dict[str, Data] = {}
        self.names: dict[Value, str] = {}
        self.load: list[Layer] = []
        self.infer: list[Layer] = []
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
        elif node.op in ("cim.conv", "cim.matmul"):
            self._layer(node)
        elif node.op in _ELEMENTWISE and node not in self.fused:
            self._between(node)

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
        shape = kernel_shape(node)
        x, w = node.arg(0), node.arg(1)
        label = self.label(layer_name(node))
        matrix = self._cells(node)
        places = [p for p in self.graph.places if p.value is w]
        width = places[0].width if places else 0
        runs = nests(places, shape)
        segments = shape.segments(width) if width else 1
        if w not in self.programmed:
            self.programmed.add(w)
            body: layers.Body = []
            for nest in runs:
                body += layers.program_cells(nest, matrix, shape.planes, shape.channels)
            self.load.append(Layer(label, body))
        load, positions = self._input(node, label, width, segments)
        recipe = recipes.recipe(x.elem, w.elem, self.geometry.functions)
        body = layers.layer(runs, load, recipe, self._stores(node), shape.channels, positions)
        kind = "x".join(str(d) for d in (w.tensor.shape or ()))
        note = f"# {kind}, {x.elem} x {w.elem}, {macs(node)} MACs"
        self.infer.append(Layer(label, body, after=note))

    def _cells(self, node: Node) -> str:
        """The data item with the cells of a layer's weights; shared by layers that share them."""
        w = node.arg(1)
        if w not in self.names:
            name = self.buffers.fresh(w.name)
            width = next((p.width for p in self.graph.places if p.value is w), 0)
            columns = kernel_shape(node).columns
            seg = width if columns > width else 0
            self.data[name] = Data(name, "cells", cells(node), seg=seg)
            self.names[w] = name
        return self.names[w]

    def _input(self, node: Node, label: str, width: int, segments: int) -> tuple[layers.Load, int]:
        """The latch load of a layer, and the number of its positions."""
        x = node.arg(0)
        planes, negative = input_planes(x.elem), x.elem[0] == "i"
        dims = node.output.tensor.static
        assert dims is not None
        if node.op == "cim.matmul":
            source = self.buffers.along(x, len(dims) - 1)
            load = layers.Load(source, None, width, 1, planes, negative)
            return load, prod(dims[:-1])
        attrs: dict[str, Any] = {"strides": (), "pads": (), "dilations": (), "group": 1}
        attrs |= node.attrs
        kernel = (node.arg(1).tensor.static or ())[2:]
        strides, pads, dilations = window(attrs, len(kernel))
        channels = (x.tensor.static or ())[1]
        seg = width if segments > 1 else 0
        win = Win(
            self.buffers.fresh(f"{label}.win"), channels, kernel, dims[2:], strides, pads,
            dilations, attrs["group"], seg,
        )  # fmt: skip
        self.wins.append(win)
        source = self.buffers.along(x, 1)
        load = layers.Load(source, win.name, 0, attrs["group"], planes, negative)
        return load, dims[0] * prod(dims[2:])

    def _stores(self, node: Node) -> list[layers.Store]:
        """Thresholds on the layer's channels are stored from the accumulators; the sums
        themselves only if someone else needs them."""
        acc = node.output
        axis = 1 if node.op == "cim.conv" else len(acc.tensor.shape or ()) - 1
        stores = []
        rest = acc in self.graph.outputs
        for user in self.users.get(acc, ()):
            if user.op != "cim.threshold" or user.int_attr("axis", 1) != axis:
                rest = True
                continue
            self.fused.add(user)
            buffer = self.buffers.along(user.output, axis)
            stores.append(layers.Store(buffer, *self._tables(user)))
        if rest:
            stores.append(layers.Store(self.buffers.along(acc, axis)))
        return stores

    def _tables(self, node: Node) -> tuple[str, str | None]:
        th = self._table(node.arg(1))
        return th, self._table(node.arg(2)) if len(node.inputs) > 2 else None

    def _table(self, value: Value) -> str:
        if value not in self.names:
            assert value.const is not None
            name = self.buffers.fresh(value.name)
            self.data[name] = Data(name, value.elem, value.const)
            self.names[value] = name
        return self.names[value]

    # -- between layers --

    def _between(self, node: Node) -> None:
        instruction = _ELEMENTWISE[node.op]
        axis = node.int_attr("axis", 1) if node.op == "cim.threshold" else -1
        dims = node.output.tensor.static
        assert dims is not None
        axis = axis if axis >= 0 else min(1, max(0, len(dims) - 1))
        label = self.label(layer_name(node))
        place = layers.POSITION
        args = [Ref(self.buffers.along(node.output, axis), place)]
        data = [v for v in node.inputs if v is not None and v.const is None]
        args += [Ref(self.buffers.along(v, axis), place) for v in data]
        opts: dict[str, Ref] = {}
        if node.op == "cim.threshold":
            th, flip = self._tables(node)
            args.append(Ref(th))
            opts = {} if flip is None else {"flip": Ref(flip)}
        if node.op == "cim.max_pool":
            args.append(Ref(self._pool(node, label)))
        count = prod(dims[:axis]) * prod(dims[axis + 1 :])
        step = Instr(instruction, tuple(args), dict(opts))
        self.infer.append(Layer(label, layers.at_positions(count, [step])))

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


_ELEMENTWISE = {
    "cim.threshold": "pp.ge",
    "cim.max_pool": "pp.max",
    "cim.add": "pp.add",
    "cim.relu": "pp.relu",
}
