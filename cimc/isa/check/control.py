"""Static checks of the control unit's instructions: what it sums, compares and stores.

Called by `rules.py`, whose table has them by name.
"""

from __future__ import annotations

from cimc.ir.types import is_integer, planes
from cimc.isa.check.lookup import elem
from cimc.isa.check.scope import Scope, Site
from cimc.isa.control import WORD
from cimc.isa.loops import extent
from cimc.isa.program import Affine, Mem, Ref, View
from cimc.isa.state import Scalar


def constant(scope: Scope, site: Site) -> None:
    """ctl.set: a number that a scalar holds."""
    value = site.instr.opts.get("value", Affine())
    assert isinstance(value, Affine)
    if any(abs(end) >= 1 << (Scalar.BITS - 1) for end in extent(value, site.loops)):
        scope.at(site, f"`value` does not fit a scalar of {Scalar.BITS} bits", "value")


def sums(scope: Scope, site: Site) -> None:
    """ctl.sum, ctl.squares: integers of few bits."""
    _element(scope, site, 1)
    _mask(scope, site)


def compare(scope: Scope, site: Site) -> None:
    """ctl.lt, ctl.gt: integers of few bits, to 0 and 1."""
    _element(scope, site, 1)
    kind = elem(scope, site, 0)
    if kind != "bool" and not _holds_one(kind):
        scope.at(site, f"0 and 1 can't be stored as {kind}", 0)
    _mask(scope, site)


def store(scope: Scope, site: Site) -> None:
    """ctl.st: one element of an integer type."""
    ref = site.instr.args[0]
    assert isinstance(ref, Ref)
    size = ref.range.size if ref.range else Affine(scope.vectors(ref.name)[1])
    if size != Affine(1):
        scope.at(site, "a scalar is stored in one element", 0, f"such as `{ref.name}[0, 2:3]`")
    if not is_integer(elem(scope, site, 0)):
        scope.at(site, f"a scalar can't be stored as {elem(scope, site, 0)}", 0)


def _element(scope: Scope, site: Site, key: int) -> None:
    _few_bits(scope, site, key, elem(scope, site, key))


def _mask(scope: Scope, site: Site) -> None:
    ref = site.instr.opts.get("mask")
    if isinstance(ref, Ref):
        item = scope.names[ref.name]
        assert isinstance(item, (Mem, View))
        _few_bits(scope, site, "mask", item.type)


def _few_bits(scope: Scope, site: Site, key: int | str, kind: str) -> None:
    if kind != "bool" and not (is_integer(kind) and planes(kind) <= WORD):
        text = f"the control unit takes integers of at most {WORD} bits, or bool, not {kind}"
        scope.at(site, text, key)


def _holds_one(kind: str) -> bool:
    """Whether 0 and 1 are values of a type; i1 has -1 and 0."""
    return is_integer(kind) and kind not in ("bip", "i1")
