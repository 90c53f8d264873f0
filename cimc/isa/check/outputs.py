"""Static checks of outputs that `.update` writes: they have one value a call, not one a sample."""

from __future__ import annotations

from cimc.isa.check.scope import Scope
from cimc.isa.sections import interface, roots, uses


def check_outputs(scope: Scope) -> None:
    """Add outputs of `.update` that have samples, or that `.infer` writes as well, to `scope`."""
    behind = roots(scope.program)
    sampled = {behind[name] for name, role in uses(scope.program, "infer") if role == "w"}
    for mem in interface(scope.program).call:
        if mem.batch is not None:
            help = "leave out `batch=`"
            text = f"`{mem.name}` is written by `.update`, once a call: it has no samples"
            scope.add(text, mem.span, help)
        if mem.name in sampled:
            help = "use two buffers"
            scope.add(f"`{mem.name}` is written by `.infer` and by `.update`", mem.span, help)
