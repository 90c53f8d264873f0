"""What the checks of an instruction look up: the declarations of its operands, its options,
and whether a window fits its buffer.
"""

from __future__ import annotations

from math import prod

from cimc.ir.types import int_range
from cimc.isa.check.scope import Scope, Site
from cimc.isa.geometry import win_out
from cimc.isa.loops import extent
from cimc.isa.program import Affine, Data, Mem, Ref, View, Win


def option(site: Site, name: str) -> Affine:
    """The value of a number option, or its default."""
    value = site.instr.opts.get(name)
    if isinstance(value, Affine):
        return value
    default = next(opt.default for opt in site.row.opts if opt.name == name)
    return Affine(default or 0)


def within(scope: Scope, site: Site, name: str, count: int, what: str) -> bool:
    """Whether the option lies in [0, count); a problem otherwise."""
    low, high = extent(option(site, name), site.loops)
    if low >= 0 and high < count:
        return True
    scope.at(site, f"`{name}` is {span(low, high)}; {what}: 0 … {count - 1}", name)
    return False


def value_of(scope: Scope, site: Site, name: str, elem: str) -> bool:
    """Whether the option is a value of integer type `elem`; a problem otherwise."""
    low, high = extent(option(site, name), site.loops)
    least, most = int_range(elem)
    if least <= low and high <= most:
        return True
    scope.at(site, f"`{name}` is {span(low, high)}; {elem} holds {least} … {most}", name)
    return False


def span(low: int, high: int) -> str:
    """`3`, or `0 … 9`."""
    return str(low) if low == high else f"{low} … {high}"


def size_text(size: Affine) -> str:
    """A number of elements, where it is one."""
    return str(size.const) if size.is_const else "a size that varies"


def item(scope: Scope, site: Site, key: int) -> object:
    """The declaration that an operand names."""
    ref = site.instr.args[key]
    assert isinstance(ref, Ref)
    return scope.names[ref.name]


def data(scope: Scope, site: Site, key: int) -> Data:
    """The data item that an operand names."""
    found = item(scope, site, key)
    assert isinstance(found, Data)
    return found


def window(scope: Scope, site: Site) -> Win:
    """The window of an instruction: its third operand."""
    win = item(scope, site, 2)
    assert isinstance(win, Win)
    return win


def elem(scope: Scope, site: Site, key: int) -> str:
    """The element type of the buffer that an operand names."""
    found = item(scope, site, key)
    assert isinstance(found, (Mem, View))
    return found.type


def shape(scope: Scope, site: Site, key: int) -> tuple[int, ...]:
    """The shape of the buffer that an operand names."""
    found = item(scope, site, key)
    assert isinstance(found, (Mem, View))
    assert found.shape is not None
    return found.shape


def vector_size(scope: Scope, site: Site) -> int:
    """Channels of the second operand, whose range has a constant size."""
    ref = site.instr.args[1]
    assert isinstance(ref, Ref)
    return ref.range.size.const if ref.range is not None else scope.vectors(ref.name)[1]


def window_fits(scope: Scope, site: Site) -> bool:
    """Whether the buffer has the channels and size of the window, and the position exists."""
    win, ref = window(scope, site), site.instr.args[1]
    assert isinstance(ref, Ref)
    assert ref.index is not None
    sizes, before = shape(scope, site, 1), len(scope.errors)
    buffer = item(scope, site, 1)
    assert isinstance(buffer, (Mem, View))
    if len(sizes) != len(win.kernel) + 2 or buffer.axis != 1:
        axes = len(win.kernel)
        scope.at(site, f"`{ref.name}` must have the shape [batch, channels, {axes} sizes] and "
                 "axis 1", 1)  # fmt: skip
        return False
    if sizes[1] != win.channels:
        text = f"`{ref.name}` has {sizes[1]} channels, `{win.name}` {win.channels}"
        scope.at(site, text, 1)
    out = win_out(win, sizes[2:])
    if out != win.out:
        fits = ",".join(map(str, out))
        scope.at(site, f"`{win.name}` gives out=[{fits}] on `{ref.name}`, not "
                 f"[{','.join(map(str, win.out))}]", 2,
                 "sizes are rounded down; write larger end pads for the ceiling")  # fmt: skip
    windows = sizes[0] * prod(win.out)
    low, high = extent(ref.index, site.loops)
    if low < 0 or high >= windows:
        scope.at(site, f"position {span(low, high)} is outside the {windows} windows", 1)
    return len(scope.errors) == before
