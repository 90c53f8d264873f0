"""A module's forward as a list of operations with their shapes (torch.fx), in evaluation mode.

The exporter and the pruner read it; neither runs the module itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from cimc.errors import CompileError
from cimc.train import layers, quantisers

OWN = (layers.Levels, quantisers.Sign, quantisers.QuantAct)
"""Modules of this package that are one operation each."""


@dataclass(frozen=True)
class Traced:
    """nodes: the operations in order, each with `.meta["shape"]`, a tuple with the batch first,
    or None for what is no tensor. modules: by name."""

    nodes: list[fx.Node]
    modules: dict[str, nn.Module]

    def module(self, node: fx.Node) -> nn.Module | None:
        """The module that an operation calls; None for functions and methods."""
        return self.modules[str(node.target)] if node.op == "call_module" else None


def shape(node: fx.Node) -> tuple[int, ...] | None:
    """Of the operation's result, the batch first."""
    found: tuple[int, ...] | None = node.meta.get("shape")
    return found


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, OWN) or super().is_leaf_module(m, module_qualified_name)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """In evaluation mode without gradients; each module in its own mode again afterwards."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def trace(model: nn.Module, example: Tensor) -> Traced:
    """example: an input with any batch. Raises CompileError where the forward can't be traced or
    does not take the example."""
    where = type(model).__name__
    with evaluating(model):
        try:
            graph = _Tracer().trace(model)
        except Exception as error:
            raise CompileError(
                f"the forward can't be traced: {_first_line(error)}",
                where,
                help="no branches or loops that depend on values",
            ) from None
        traced = fx.GraphModule(model, graph)
        try:
            ShapeProp(traced).propagate(example)
        except Exception as error:
            raise CompileError(
                f"the forward does not take an input of {list(example.shape)}: "
                f"{_first_line(error)}",
                where,
            ) from None
    for node in graph.nodes:
        found = node.meta.get("tensor_meta")
        node.meta["shape"] = tuple(found.shape) if hasattr(found, "shape") else None
    return Traced(list(graph.nodes), dict(model.named_modules()))


def _first_line(error: Exception) -> str:
    cause = error.__cause__ or error
    return (str(cause) or type(cause).__name__).strip().splitlines()[0]


def name_of(target: object) -> str:
    """How errors name a function, a method or the class of a module."""
    if isinstance(target, str):
        return f"method {target}"
    if isinstance(target, nn.Module):
        return type(target).__name__
    return getattr(target, "__name__", str(target)) if isinstance(target, Callable) else str(target)  # type: ignore[arg-type]


def argument(node: fx.Node, index: int, name: str, default: Any = None) -> Any:
    """An argument by position or by name."""
    return node.args[index] if len(node.args) > index else node.kwargs.get(name, default)
