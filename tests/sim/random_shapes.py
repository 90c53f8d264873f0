"""Random layers of wild programs: loops in loops with any statements, and patterns that need a
plan, such as triangular loops, sums over `par`, and values that iterations hand on."""

from __future__ import annotations

from random_control import control
from random_steps import between, host, store
from random_wild import Scope

from cimc.isa.geometry import positions
from cimc.isa.loops import extent, trips
from cimc.isa.program import Affine, Instr, Layer, Loop, Range, Ref, Reg, Rows

VARIABLES = "pqrst"


def layer(wild, section, budget):
    """Add a layer to a section: statements that take about `budget` steps. Registers live to the
    end of the section; some layers read those of the layers before."""
    keep = wild.draw.chance(0.4) and section in wild.scopes
    scope = wild.scopes[section] if keep else Scope(section)
    wild.scopes[section] = scope
    if wild.draw.chance(0.35):
        body = wild.draw.choice(_PATTERNS)(wild, scope)
    else:
        body = statements(wild, scope, budget)
    number = sum(map(len, wild.bodies.values()))
    wild.bodies[section].append(Layer(f"l{number}", body))


def statements(wild, scope, budget, depth=0):
    """A body: loops, loads, reads, sums and stores in any order that has values to work on."""
    found = []
    for _ in range(wild.draw.randint(2, 6)):
        if budget < 4:
            break
        made = _statement(wild, scope, budget, depth)
        budget -= _cost(made)
        found += made
    return found or wild.clear(scope)


def _statement(wild, scope, budget, depth):
    ways = {
        _loop: 5 if depth < 3 else 0, dot: 4, wild.load: 1, wild.read: 2, wild.popc: 2,
        wild.clear: 1, wild.accumulate: 3, store: 3, between: 3,
        wild.cells: 0 if scope.section == "infer" else 2,
        control: 3 if scope.section == "update" else 0,
        host: 0.7 if scope.section == "infer" and depth == 0 else 0.05,
    }  # fmt: skip
    way = wild.draw.weighted(ways)
    if way is _loop:
        return _loop(wild, scope, budget, depth)
    return way(scope) if hasattr(way, "__self__") else way(wild, scope)


def _cost(made):
    """Instructions that statements execute, where bounds are known; else more or less."""
    total = 0
    for item in made:
        if isinstance(item, Instr):
            total += 1
            continue
        span = item.hi - item.lo
        total += (span.const if span.is_const else 6) * _cost(item.body)
    return total


def _loop(wild, scope, budget, depth):
    draw = wild.draw
    var = VARIABLES[depth]
    kind = "par" if draw.chance(0.2) else "for"
    lo, hi = Affine(), Affine(draw.choice([1, 2, 2, 3, 4, 6]))
    around = positions((b := draw.choice(wild.buffers())).shape, b.axis)
    if draw.chance(0.6) and around * 6 <= budget:
        hi = Affine(around)
    elif scope.loops and draw.chance(0.3):
        outer = scope.loops[-1]
        last = extent(Affine.of(outer.var), scope.loops)[1]
        lo, hi = draw.choice([(Affine(), Affine.of(outer.var) + 1), (Affine.of(outer.var),
                              Affine(last + draw.choice([1, 2])))])  # fmt: skip
    elif draw.chance(0.2):
        lo = Affine(draw.randint(1, 4))
        hi = hi + lo
    loop = Loop(kind, var, lo, hi, [])
    count = max(1, trips(loop, scope.loops)[1])
    inner = scope.inside(loop)
    loop.body = statements(wild, inner, budget // count, depth + 1)
    scope.leave(inner, loop)
    return [loop]


def dot(wild, scope):
    """A load, a read, its ones summed up, perhaps a store."""
    draw = wild.draw
    made = wild.load(scope) + wild.read(scope)
    made += wild.popc(scope)
    if draw.chance(0.5) or wild.known(scope, "acc") is None:
        made += wild.clear(scope)
    for _ in range(draw.randint(1, 3)):
        made += wild.accumulate(scope)
    return made + (store(wild, scope) if draw.chance(0.6) else [])


# -- patterns ----------------------------------------------------------------------------


def _read_sum(wild, scope, size, acc="a", start=0, **opts):
    """Read `size` rows with %x, add up their ones in accumulators."""
    draw, banks = wild.draw, Range.of(start, size)
    op = f"read.{draw.choice(wild.target.functions)}"
    rows = wild.rows(scope, size)
    d, c, a = (Reg(name, banks) for name in ("d", "c", acc))
    add = draw.choice(["acc.add", "acc.sub"])
    return [
        Instr(op, (d, rows, Reg("x"))),
        Instr("popc", (c, d)),
        Instr(add, (a, c), wild.opts(**opts)),
    ]


def _size(wild):
    return wild.draw.randint(1, min(wild.target.rows, 6))


def triangle(wild, scope):
    """Each row against those behind it: ranges that shrink with the loop variable."""
    draw, rows = wild.draw, wild.target.rows
    if rows < 2:
        return statements(wild, scope, 100)
    n = min(rows, draw.randint(2, 8))
    i = Affine.of("i")
    size = Affine(n) - i if draw.chance(0.5) else i + 1
    start = i if size == Affine(n) - i else Affine()
    span = Range(start, size)
    loop = Loop(draw.choice(["for", "for", "par"]), "i", Affine(), Affine(n), [])
    inner = scope.inside(loop)
    load = wild.load(inner)
    load[0].args = (Reg("x"), *load[0].args[1:])
    d, c, a = (Reg(name, span) for name in "dca")
    op = f"read.{draw.choice(wild.target.functions)}"
    y = wild.buffer(f"tri{len(wild.decls)}", "i32", n)
    where = wild.affine(inner, positions(y.shape, y.axis))
    if draw.chance(0.3):
        where = Affine(where.const) if where.is_const else where
    clear = [Instr("acc.clr", (a,))] if draw.chance(0.8) else []
    loop.body = [
        *load, Instr(op, (d, Rows(Affine(), span), Reg("x"))), Instr("popc", (c, d)), *clear,
        Instr(draw.choice(["acc.add", "acc.sub"]), (a, c)),
        Instr("st.acc", (Ref(y.name, where, span), a)),
    ]  # fmt: skip
    before = [] if clear else [Instr("acc.clr", (Reg("a", Range.of(0, n)),))]
    return [*before, loop]


def reduction(wild, scope):
    """A sum over the iterations of a `par`, or of a `for`, stored behind it."""
    draw, size = wild.draw, _size(wild)
    sums = Reg("a", Range.of(0, size))
    scope.wrote("a", sums.range)
    loop = Loop(draw.choice(["par", "par", "for"]), "k", Affine(), Affine(draw.randint(1, 4)), [])
    inner = scope.inside(loop)
    load = wild.load(inner)
    load[0].args = (Reg("x"), *load[0].args[1:])
    body = [*load, *_read_sum(wild, inner, size, shl=wild.affine(inner, 5))]
    if draw.chance(0.5):
        body.append(Instr("acc.add", (sums, Reg("x", None, draw.choice(["valid", "ones"])))))
    if draw.chance(0.3):
        body += _read_sum(wild, inner, size)
    loop.body = body
    return [Instr("acc.clr", (sums,)), loop, *store(wild, scope), *store(wild, scope)]


def chunks(wild, scope):
    """Channels in chunks, each position by itself: stores side by side, or overlapping."""
    draw, size = wild.draw, _size(wild)
    count = draw.randint(2, 4)
    step = draw.choice([size, size, max(1, size - 1), size + 1])
    outer = Loop("for", "p", Affine(), Affine(draw.randint(1, 5)), [])
    chunk = Loop("par" if step >= size else "for", "m", Affine(), Affine(count), [])
    inside = scope.inside(outer).inside(chunk)
    load = wild.load(inside)
    load[0].args = (Reg("x"), *load[0].args[1:])
    y = wild.buffer(f"ch{len(wild.decls)}", "i32", step * (count - 1) + size)
    place = positions(y.shape, y.axis)
    index = Affine.of("p") if outer.hi.const <= place else Affine()
    part = Range(Affine.of("m") * step, Affine(size))
    sums = Reg("a", Range.of(0, size))
    chunk.body = [
        *load, Instr("acc.clr", (sums,)), *_read_sum(wild, inside, size),
        Instr("st.acc", (Ref(y.name, index, part), sums)),
    ]  # fmt: skip
    outer.body = [chunk]
    if draw.chance(0.3):
        chunk.body, outer.body = [Loop("for", "p", outer.lo, outer.hi, chunk.body)], []
        return [chunk]
    return [outer]


def carried(wild, scope):
    """Sums that go on from one iteration to the next, stored on the way and behind the loop."""
    draw, size = wild.draw, _size(wild)
    sums = Reg("a", Range.of(0, size))
    scope.wrote("a", sums.range)
    loop = Loop("for", "p", Affine(), Affine(draw.randint(1, 5)), [])
    inner = scope.inside(loop)
    load = wild.load(inner)
    load[0].args = (Reg("x"), *load[0].args[1:])
    loop.body = [*load, *_read_sum(wild, inner, size)]
    if draw.chance(0.7):
        loop.body += store(wild, inner)
    if draw.chance(0.3):
        loop.body.append(Instr("acc.clr", (sums,)))
    scope.latches.add("x")
    behind = store(wild, scope) if draw.chance(0.7) else []
    if draw.chance(0.3):
        behind += [*_read_sum(wild, scope, size), *store(wild, scope)]
    return [Instr("acc.clr", (sums,)), loop, *behind]


def feedback(wild, scope):
    """Each position computed from the one before it, which the loop has just stored."""
    draw, n = wild.draw, wild.draw.randint(2, 6)
    elem = draw.choice(["u8", "i4", "bip", "u2"])
    channels = draw.randint(1, min(wild.target.cols, wild.target.rows, 9))
    y = wild.buffer(f"fb{len(wild.decls)}", elem, channels)
    count = positions(y.shape, y.axis)
    if count < 2:
        return statements(wild, scope, 100)
    n = min(n, count)
    p, part = Affine.of("p"), Range.of(0, channels)
    loop = Loop("for", "p", Affine(1), Affine(n), [])
    inner = scope.inside(loop)
    d, c, a = (Reg(name, part) for name in "dca")
    op = f"read.{draw.choice(wild.target.functions)}"
    rows = wild.rows(inner, channels)
    loop.body = [
        Instr("ld.vector", (Reg("x"), Ref(y.name, p - 1))),
        Instr(op, (d, rows, Reg("x"))), Instr("popc", (c, d)),
        Instr("acc.clr", (a,)), Instr("acc.add", (a, c), wild.opts(shl=draw.randint(0, 2))),
    ]  # fmt: skip
    inner.wrote("a", part)
    levels = wild.constant("i32", draw.arrays.integers(0, 4, channels).astype("i4"))
    loop.body.append(Instr("st.ge", (Ref(y.name, p), a, Ref(levels))))
    first = wild.buffers(elem=lambda e: e == elem)
    start = [b for b in first if b.shape[b.axis] == channels and b.name.startswith("in")]
    move = [Instr("pp.mov", (Ref(y.name, Affine()), Ref(start[0].name, Affine())))] if start else []
    return [*move, loop]


def between_all(wild, scope):
    """Operations on every position of some buffers, as the compiler writes them."""
    buffer = wild.draw.choice(wild.buffers())
    count = positions(buffer.shape, buffer.axis)
    loop = Loop("for", "p", Affine(), Affine(min(count, 12)), [])
    inner = scope.inside(loop)
    steps = [between(wild, inner) for _ in range(wild.draw.randint(1, 3))]
    loop.body = [step for made in steps for step in made]
    return [loop] if loop.body else wild.clear(scope)


_PATTERNS = (triangle, reduction, chunks, carried, feedback, between_all, between_all)
