"""Builds ONNX models by hand, and runs them by every way that there is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from cimc.api import compile
from cimc.frontend.export import to_onnx
from cimc.frontend.importer import import_onnx
from cimc.ir.printer import print_graph
from cimc.ir.text import parse_graph
from cimc.ir.verify import verify
from cimc.oracle import compare, open_oracle, verdict

F32, I64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
Feeds = dict[str, Any]
Port = tuple[str, int, list[Any] | None]
node = helper.make_node


def info(port: Port) -> Any:
    return helper.make_tensor_value_info(*port)


def graph(
    nodes: list[NodeProto], inputs: list[Port], outputs: list[Port], consts: Feeds | None = None
) -> GraphProto:
    """A graph from nodes, (name, type, shape) of its interface, and constants by name."""
    tensors = [numpy_helper.from_array(np.asarray(a), n) for n, a in (consts or {}).items()]
    return helper.make_graph(nodes, "g", [info(i) for i in inputs], [info(o) for o in outputs],
                             tensors)  # fmt: skip


def model(proto: GraphProto, opset: int = 17, **domains: int) -> ModelProto:
    """A model; further domains by keyword, `_` for `.`."""
    imports = [helper.make_opsetid("", opset)]
    imports += [helper.make_opsetid(d.replace("_", "."), v) for d, v in domains.items()]
    return helper.make_model(proto, opset_imports=imports, ir_version=8)


def run(proto: ModelProto, feeds: Feeds) -> dict[str, Any]:
    """Outputs in onnxruntime, without optimisation."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = ort.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, feeds)))


def same(a: Any, b: Any) -> bool:
    """Equal in type, shape and every bit (any NaN equals any NaN); lists element by element."""
    if isinstance(a, list) or isinstance(b, list):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b))
    if not isinstance(a, np.ndarray) or not isinstance(b, np.ndarray):
        return bool(a == b)
    nan = a.dtype.kind == "f"
    return a.dtype == b.dtype and np.array_equal(a, b, equal_nan=nan)


def through(proto: ModelProto, feeds: Feeds, folder: Path, programs: bool = True) -> None:
    """Import, print, parse, verify, export, compile and run: always the source's outputs.
    programs: whether the inputs are tensors, so that there is a program."""
    path = folder / "case.onnx"
    path.write_bytes(proto.SerializeToString())
    expected = run(proto, feeds)
    found = import_onnx(path)
    verify(found)
    text = print_graph(found)
    assert print_graph(parse_graph(text)) == text
    for way in (found, parse_graph(text)):
        exported = to_onnx(way)
        onnx.checker.check_model(exported)
        outputs = run(exported, feeds)
        assert list(outputs) == list(expected)
        assert all(same(outputs[n], expected[n]) for n in expected), outputs
    if not programs:
        return
    shapes = {n: np.shape(a) for n, a in feeds.items()}
    compiled = compile(path, pipeline="exact", shapes=shapes, target="ideal")
    oracle = open_oracle(path, compiled.program)
    assert verdict(compare(oracle(feeds), compiled.run(feeds).outputs)) == "yes"
