"""Placement and loop nests (cimc/backend/nest.py): each block of a kernel lies on the tiles
once, and every cell holds what the graph's `place` statements and weights say."""

import numpy as np
from exact_check import FAST, PASSES, compiled
from exact_draw import cases
from exact_nets import Net
from hypothesis import given
from hypothesis import strategies as st

from cimc.ir.kernels import cells, kernel_shape
from cimc.isa.check.scope import sites
from cimc.isa.loops import iterations, values
from cimc.sim.reference import run


def _net(draw):
    net = Net(draw(st.integers(0, 1000)))
    group = draw(st.integers(1, 4))
    channels, out = group * draw(st.integers(1, 3)), group * draw(st.integers(1, 20))
    x = net.op("Sign", net.input("x", (1, channels, 4)))
    kind = draw(st.sampled_from(["bip", "tern"]))
    y = net.conv(x, out, [draw(st.integers(1, 4))], kind, None, group)
    if draw(st.booleans()):  # a second layer, whose blocks lie beside the first one's
        size = int(np.prod(net.shapes[y]))
        z = net.op("Flatten", net.op("Sign", y), shape=(1, size))
        w = net.const(net.weights((size, draw(st.integers(1, 9))), "tern"), "w")
        return net, [y, net.op("MatMul", z, w, shape=(1, 9))]
    return net, [y]


def _expected(graph, tiles, rows, cols):
    """Cells by the definition of `place`, and how often each was placed."""
    image, times = np.zeros((tiles, rows, cols), np.uint8), np.zeros((tiles, rows, cols), int)
    layers = {n.inputs[1]: n for n in graph.nodes if n.op in ("cim.conv", "cim.matmul")}
    for place in graph.places:
        node = layers[place.value]
        shape, matrix = kernel_shape(node, place.width), cells(node, place.width)
        segments = shape.segments(place.width)
        low, high = place.channels
        for i in range(place.count):
            unit, plane = divmod(place.first + i, shape.planes)
            group, segment = divmod(unit, segments)
            first = (group * shape.planes + plane) * shape.channels
            block = matrix[first + low : first + high]
            block = block[:, segment * place.width : (segment + 1) * place.width]
            tile = place.tile + i // place.per_tile
            row = place.row + i % place.per_tile * (high - low)
            where = (tile, slice(row, row + high - low), slice(0, block.shape[1]))
            image[where] = block
            times[where] += 1
    widths = {place.value: place.width for place in graph.places}
    total = sum(cells(layers[w], width).size for w, width in widths.items())
    return image, times, total


@cases(80)
@given(st.data())
def test_every_block_lies_on_the_tiles_once(data):
    net, outputs = _net(data.draw)
    rows, cols = data.draw(st.integers(2, 24)), data.draw(st.integers(1, 20))
    pipeline = data.draw(st.sampled_from([PASSES, FAST]))
    case = compiled(net.model(*outputs), rows=rows, cols=cols, pipeline=pipeline)
    image, times, total = _expected(case.graph, case.program.target.tiles, rows, cols)
    assert times.max() == 1
    assert times.sum() == total
    np.testing.assert_array_equal(run(case.program, net.feeds).tiles, image)


@cases(40)
@given(st.data())
def test_every_row_is_programmed_once_and_read_for_each_position(data):
    """`.load` covers each row of each block once; the loops of `.infer` read the same rows."""
    net, outputs = _net(data.draw)
    outputs = outputs[:1]
    rows, cols = data.draw(st.integers(2, 24)), data.draw(st.integers(1, 20))
    case = compiled(net.model(*outputs), rows=rows, cols=cols)
    found = {"load": {}, "infer": {}}
    for site in sites(case.program):
        op = site.instr.op
        if op != "set" and not op.startswith("read."):
            continue
        target = site.instr.args[0 if op == "set" else 1]
        count, env = iterations(site.loops)
        tile, start, size = (
            values(e, env, count) for e in (target.tile, target.range.start, target.range.size)
        )
        for t, a, n in zip(tile, start, size):
            for row in range(a, a + n):
                key = (int(t), int(row))
                table = found[site.section]
                table[key] = table.get(key, 0) + 1
    positions = int(np.prod(net.shapes[outputs[0]][2:]))
    packed = next(iter(case.program.wins.values())).pack > 1
    signs = next(n for n in case.graph.nodes if n.op == "cim.conv").inputs[1].elem == "bip"
    reads = 2 if packed and signs else 1  # signs in a pack: their number is read as well
    assert set(found["load"].values()) == {1}
    assert found["infer"] == dict.fromkeys(found["load"], reads * positions)
