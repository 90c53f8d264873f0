"""Makes things to time of models: programs, and onnxruntime in their place; and checks that both
do what they should."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto

from cimc import api
from cimc.bench.programs import Feeds, Runner, first
from cimc.errors import CompileError
from cimc.frontend.importer import import_model
from cimc.ir.types import Array
from cimc.isa.program import Program
from cimc.oracle import compare, open_oracle, verdict

CHECKED = 4  # samples whose outputs are compared


@dataclass(frozen=True)
class Network:
    """A model on disk and its program."""

    path: Path
    compiled: api.Compiled

    @property
    def program(self) -> Program:
        return self.compiled.program


def compile_network(
    model: ModelProto, folder: Path, pipeline: str = api.DEFAULT_PIPELINE
) -> Network:
    """The model, written to the folder under its own name, and compiled."""
    path = folder / f"{model.graph.name}.onnx"
    path.write_bytes(model.SerializeToString())
    return Network(path, api.compile(import_model(model, path.name), pipeline=pipeline))


def onnxruntime(model: ModelProto | bytes, threads: int, what: str) -> Runner:
    """Runs a model in onnxruntime, fully optimised. Raises CompileError if it is refused."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    content = model if isinstance(model, bytes) else model.SerializeToString()
    try:
        session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has no common exception class
        message = f"onnxruntime cannot load it: {' '.join(str(error).split())[:300]}"
        raise CompileError(message, what) from error
    names = [output.name for output in session.get_outputs()]

    def run(feeds: Feeds) -> dict[str, Array]:
        return dict(zip(names, session.run(None, dict(feeds))))

    return run


def wrong_outputs(network: Network, run: Runner, feeds: Feeds, samples: int = CHECKED) -> str:
    """How a program's outputs differ from those of its model, which `cimc check` holds it
    against; empty if they are the same."""
    few = first(network.program, feeds, samples)
    found = compare(open_oracle(network.path, network.program)(few), run(few))
    return "; ".join(map(str, found)) if verdict(found).startswith("no") else ""


def agreement(expected: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, object]:
    """How far a baseline's outputs are the engine's: for each output the share of elements
    with the same bits, and of samples with the same largest one."""
    result: dict[str, object] = {}
    for name, values in expected.items():
        one, other = np.asarray(values), np.asarray(found[name])
        if one.shape != other.shape or not one.size:
            result[name] = f"shapes {list(one.shape)} and {list(other.shape)}"
            continue
        largest = (a.reshape(*a.shape[:1], -1).argmax(-1) for a in (one, other))
        result[name] = {
            "equal": float(np.mean(one == other)),
            "same_class": float(np.mean(np.equal(*largest))),
        }
    return result
