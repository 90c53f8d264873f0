"""onnxruntime sessions as this project uses them: graph optimisation off, quiet.

Optimised graphs may round differently from one version to the next; the unoptimised one
is the oracle and runs the host fragments. Where this processor's integer kernels saturate,
their weights are moved out of the way (`saturation.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cimc.errors import CompileError
from cimc.frontend.saturation import exact
from cimc.ir.types import Array


def open_session(model: bytes, what: str, threads: int = 0) -> Any:
    """An `onnxruntime.InferenceSession` over a serialised model.

    what: how errors name it. threads: intra-op threads, 0 for onnxruntime's choice.
    Raises CompileError if onnxruntime refuses the model.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    try:
        return ort.InferenceSession(exact(model), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has no common exception class
        raise CompileError(f"onnxruntime cannot load it: {_brief(error)}", what) from error


def call(
    session: Any, feeds: dict[str, Array], what: str, names: Sequence[str] | None = None
) -> list[Array]:
    """Run a session on named inputs; results in the order of `names`, or of the model's outputs.

    Raises CompileError if onnxruntime fails.
    """
    try:
        results: Sequence[Any] = session.run(names, feeds)
    except Exception as error:
        raise CompileError(f"onnxruntime cannot run it: {_brief(error)}", what) from error
    return [r if isinstance(r, list) else np.asarray(r) for r in results]  # type: ignore[misc]


def _brief(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else text[:297] + "..."
