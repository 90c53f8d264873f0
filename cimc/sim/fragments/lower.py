"""Nodes of a fragment as steps of the compiled kernels.

Element-wise nodes with results of equal size become one step; `operators.py` writes its code,
operation by operation, on registers without end, and here they get their places. Knows nothing
of samples, or of how parts follow each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from onnx import NodeProto

from cimc.sim.fragments import kernels
from cimc.sim.fragments.block import ELEMS, Block, Instr, Memory, Refused, Register
from cimc.sim.fragments.graph import Array, FragmentGraph, schedule
from cimc.sim.fragments.operators import write


@dataclass
class Steps:
    """What `kernels.run_steps` takes but for addresses. `memory`: the tensors by number;
    vectors, wides, singles: how many registers of each kind."""

    steps: Array
    code: Array
    numbers: Array
    memory: Memory
    vectors: int
    wides: int
    singles: int


def can_lower(node: NodeProto, graph: FragmentGraph) -> bool:
    """Whether the kernels have the operation, on operands like these."""
    try:
        lower([node], graph, {node.output[0]})
    except Refused:
        return False
    return True


def lower(nodes: Sequence[NodeProto], graph: FragmentGraph, needed: set[str]) -> Steps:
    """needed: the values that are to be in memory afterwards. Raises Refused."""
    memory, numbers = Memory(graph), list[tuple[float, float]]()
    uses = graph.uses()
    rows: list[list[int]] = []
    code: list[list[int]] = []
    places = _Places()
    for (kind, size), run in schedule(nodes, graph, lambda node: _key(node, graph)):
        if kind == kernels.DYNAMIC_QUANTIZE:
            rows += [_dynamic_quantize(node, graph, memory) for node in run]
            continue
        block = Block(graph, size, memory, numbers, uses)
        for node in run:
            write(block, node)
        inside = {name for node in run for name in node.output}
        rest = [n for n in nodes if not inside.issuperset(n.output)]
        read = {graph.root(name) for node in rest for name in node.input if name}
        for name in sorted(inside & (needed | read)):
            block.store(name)
        first = len(code)
        code += places.assign(block.once, forever=True)
        body = len(code)
        code += places.assign(block.code)
        row = [kernels.ELEMENTWISE, first, body, len(code), size, block.run or size]
        rows.append(row + [0] * (kernels.STEP_FIELDS - len(row)))
        places.release()
    return Steps(
        np.array(rows, np.int64).reshape(-1, kernels.STEP_FIELDS),
        np.array(code, np.int64).reshape(-1, kernels.CODE_FIELDS),
        np.array(numbers, np.float64).reshape(-1, 2),
        memory,
        *(places.most[kind] for kind in ("vector", "wide", "single")),
    )


def _key(node: NodeProto, graph: FragmentGraph) -> tuple[int, int]:
    if node.op_type == "DynamicQuantizeLinear":
        return kernels.DYNAMIC_QUANTIZE, 0
    return kernels.ELEMENTWISE, graph.tensors[node.output[0]].size


def _dynamic_quantize(node: NodeProto, graph: FragmentGraph, memory: Memory) -> list[int]:
    tensor = graph.tensors[node.input[0]]
    if ELEMS.get(tensor.elem) != kernels.F32 or not all(node.output):
        raise Refused
    tensors = [memory.value(name) for name in (node.input[0], *node.output)]
    return [kernels.DYNAMIC_QUANTIZE, 0, 0, 0, tensor.size, 0, *tensors]


@dataclass
class _Places:
    """Gives registers their numbers; `most`: how many of each kind are used at once."""

    most: dict[str, int] = field(default_factory=lambda: {"vector": 1, "wide": 1, "single": 1})
    _free: dict[str, list[int]] = field(default_factory=dict)
    _next: dict[str, int] = field(default_factory=dict)
    _places: dict[Register, int] = field(default_factory=dict)

    def assign(self, code: Sequence[Instr], forever: bool = False) -> list[list[int]]:
        """The code with numbers for registers. A register is free after its last use, unless
        it holds its value `forever`: for all blocks. No result shares the register of an
        operand: a loop over both would not be vector code."""
        last = {r: at for at, i in enumerate(code) for r in (i.to, *i.args) if _is(r)}
        rows = []
        for at, instr in enumerate(code):
            to = instr.to
            if isinstance(to, Register) and to not in self._places:
                self._take(to)
            fields = [self._number(field) for field in (to, *instr.args)]
            rows.append([instr.op, *fields, *[0] * (kernels.CODE_FIELDS - 1 - len(fields))])
            if forever:
                continue
            for register in {r for r in (to, *instr.args) if isinstance(r, Register)}:
                if last[register] == at and not register.forever:
                    self._free.setdefault(register.kind, []).append(self._places[register])
        return rows

    def release(self) -> None:
        """All registers are free again."""
        self._free, self._next, self._places = {}, {}, {}

    def _take(self, register: Register) -> None:
        kind = register.kind
        free = self._free.get(kind)
        if free and not register.forever:
            self._places[register] = free.pop()
            return
        place = self._next.get(kind, 0)
        self._places[register] = place
        self._next[kind] = place + 1
        self.most[kind] = max(self.most[kind], place + 1)

    def _number(self, field: Register | int) -> int:
        return self._places[field] if isinstance(field, Register) else field


def _is(field: Register | int) -> bool:
    return isinstance(field, Register)
