"""The layout of a program agrees with the graph it was compiled from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import cimc
from cimc.cost.floorplan import bars, color, draw
from cimc.cost.layout import LayerUse, Layout, layout
from cimc.frontend.macs import macs
from cimc.isa.printer import print_program
from cimc.isa.program import Data
from cimc.isa.text import parse

EXAMPLES = Path(__file__).parents[2] / "examples"
DIGITS = EXAMPLES / "digits" / "digits_bnn.onnx"
MNIST = EXAMPLES / "mnist" / "mnist_bnn.onnx"
SETTINGS = [
    {},
    {"rows": "32", "cols": "32"},
    {"rows": "16", "cols": "24"},
    {"functions": "and"},
    {"functions": "nand,or"},
]

# Kernels programmed on two tiles, at two columns, and read in a triangular loop.
BY_HAND = """\
.cim 1
.target toy rows=8 cols=8 tiles=3 functions=[xor] acc_bits=16
.pipeline "exact"

.mem x bip[1,6] input="x" batch=0
.mem y i32[1,4] output="y" batch=0

.load
fc:
  for k in 0:2
    reset t[2*k][4*k +: 4], fc.w[0:4]
    set t[2*k][4*k +: 4], fc.w[0:4], col=2
    set t[2*k][4*k +: 4], fc.w[0:4]
  end

.infer
fc:
  for p in 0:1
    acc.clr %a[0:4]
    ld.vector %x, x[p]
    for i in 0:4
      read.xor %d[i:4], t[0][i:4], %x
      popc %c[i:4], %d[i:4]
      acc.add %a[i:4], %c[i:4]
    end
    st.acc y[p, 0:4], %a[0:4]
  end
"""


def _digits(**settings: str) -> tuple[cimc.Compiled, Layout]:
    compiled = cimc.compile(DIGITS, overrides=settings)
    return compiled, layout(compiled.program)


def _named(plan: Layout, name: str) -> LayerUse:
    (found,) = [layer for layer in plan.layers if layer.name == name]
    return found


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_macs_are_those_of_the_graph(settings: dict[str, str]) -> None:
    compiled, plan = _digits(**settings)
    assert compiled.graph is not None
    expected = sum(macs(n) for n in compiled.graph.nodes if n.op in ("cim.conv", "cim.matmul"))
    assert plan.tile_macs == expected == 613_376
    assert plan.host_macs == 0


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_every_weight_has_one_cell(settings: dict[str, str]) -> None:
    _, plan = _digits(**settings)
    weights = 32 * 9 + 32 * 32 * 9 + 512 * 10
    assert plan.cells == weights
    assert sum(layer.cells for layer in plan.layers) == weights
    assert sum(layer.rows for layer in plan.layers) == plan.rows


def test_mnist() -> None:
    plan = layout(cimc.compile(MNIST, pipeline="exact").program)
    assert [(la.name, la.macs) for la in plan.layers if la.where == "tiles"] == [
        ("conv1", 225_792),
        ("conv2", 3_612_672),
        ("conv3", 451_584),
    ]
    conv2 = _named(plan, "conv2")
    assert (conv2.what, conv2.positions) == ("conv 3x3 32->64, bip", 196)
    assert (conv2.rows, conv2.cells, conv2.row_reads) == (192, 18_432, 196 * 192)
    assert _named(plan, "sign1").where == "post"
    assert _named(plan, "host1").macs == plan.host_macs == 234_752
    (fragment,) = plan.fragments
    assert dict(fragment.operators)["Gemm"] == 3
    assert "input is float" in fragment.why


def test_text_gives_the_same_layout_without_its_comments() -> None:
    compiled, plan = _digits()
    lines = print_program(compiled.program).splitlines()
    text = "\n".join(line.split("  #")[0] for line in lines)
    assert layout(parse(text)) == plan


def test_by_hand() -> None:
    text = BY_HAND + _data()
    plan = layout(parse(text))
    assert [(t.tile, t.rows, t.cells) for t in plan.tiles] == [(0, 4, 32), (1, 0, 0), (2, 4, 32)]
    (fc,) = plan.layers
    assert (fc.tiles, fc.rows) == ((0,), 4)
    assert (fc.row_reads, fc.macs, fc.positions) == (4 + 3 + 2 + 1, 4 * 6, 1)


def test_sums_of_inputs_are_no_dot_products() -> None:
    text = BY_HAND.replace("acc.clr %a[0:4]", "acc.clr %a[0:4]\n    acc.clr %s[0:1]")
    text = text.replace("    st.acc", "    acc.add %s[0:1], %x.ones\n"
                        "    acc.mac %a[0:4], %s[0:1], fc.zw\n    st.acc")  # fmt: skip
    program = parse(text + _data())
    program.data.append(Data("fc.zw", "i32", np.arange(4, dtype=np.int32)))
    (fc,) = layout(program).layers
    assert fc.macs == 4 * 6


def _data() -> str:
    import base64
    import hashlib

    cells = bytes(3)  # four rows of six cells
    digest = hashlib.sha256(cells).hexdigest()
    text = base64.b64encode(cells).decode()
    return f'\n.data fc.w cells[4,6] sha256="{digest}" "{text}"\n'


def test_json_is_plain() -> None:
    _, plan = _digits()
    found = plan.to_json()
    assert found["macs"] == {"tiles": 613_376, "host": 0}
    assert found["layers"][0]["name"] == "conv1"
    assert found["tiles"][0]["layers"] == ("conv1", "conv2", "fc")


# -- floorplan -------------------------------------------------------------------------


def test_bars_join_equal_tiles() -> None:
    _, plan = _digits(rows="16", cols="16")
    lines = [line.plain for line in bars(plan)]
    assert lines[0].startswith("t0-t1 ")
    assert sum(_tiles(line) for line in lines) == len(plan.tiles)
    assert "aaaaaaaaaaaaaaaa| 16/16 rows, 56 % of cells" in lines[0]


def _tiles(line: str) -> int:
    first, _, last = line.split(" ")[0].partition("-")
    return int(last[1:]) - int(first[1:]) + 1 if last else 1


def test_bars_have_a_limit() -> None:
    _, plan = _digits(rows="64", cols="64")
    lines = [line.plain for line in bars(plan, most=1)]
    assert len(lines) == 2
    assert lines[1].endswith("more tiles")


def test_picture_shows_cells_to_scale() -> None:
    _, plan = _digits()
    image = draw(plan, "digits.cim")
    pixels: dict[tuple[int, int, int], int] = {}
    for x in range(image.width):
        for y in range(90, image.height - 80):
            pixel = image.getpixel((x, y))
            assert isinstance(pixel, tuple)
            pixels[pixel[0], pixel[1], pixel[2]] = pixels.get(pixel[:3], 0) + 1
    conv2, unused = (pixels[_rgb(c)] for c in (color(1), "#e4e4e4"))
    area = conv2 + unused + pixels[_rgb(color(0))] + pixels[_rgb(color(2))]
    assert 0.24 < conv2 / area < 0.30  # 9,216 of 32,768 cells, less the lines and the name


def _rgb(text: str) -> tuple[int, int, int]:
    return int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16)


@pytest.mark.parametrize("settings", [{"rows": "4", "cols": "8"}, {"tiles": "5000"}], ids=str)
def test_picture_of_many_tiles_stays_small(settings: dict[str, str]) -> None:
    _, plan = _digits(**settings)
    image = draw(plan, "many")
    assert image.width <= 1700
    assert image.height <= 4000


def test_picture_without_tiles() -> None:
    text = print_program(cimc.compile(DIGITS).program)
    head, _, rest = text.partition("tiles=1 ")
    infer = rest[rest.index(".infer") : rest.index("conv1:  #")]
    program = parse(f"{head}tiles=0 {rest[: rest.index('.mem')]}{infer}")
    assert draw(layout(program), "empty").width > 0


def test_colors_differ() -> None:
    assert len({color(i) for i in range(40)}) == 40
