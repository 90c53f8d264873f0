"""A valid program text that the tests of cimc.isa change in one place each."""

from __future__ import annotations

import numpy as np

from cimc.errors import CompileError, CompileErrors, Span
from cimc.isa.printer import print_program
from cimc.isa.program import Data, Program
from cimc.isa.text import parse

_rng = np.random.default_rng(0)

HEAD = """\
.cim 1
.target ideal rows=256 cols=128 tiles=2 functions=[and,nand,or,xor] acc_bits=32
.pipeline "exact"
"""

TEXT = (
    HEAD
    + """\

.mem image u8[1,1,28,28] input="image" batch=0
.mem act0 bip[1,32,28,28]
.mem act1 bip[1,32,14,14]
.mem act2 bip[1,64,14,14]
.mem logits i32[1,10] output="y" batch=0
.mem any host
.view flat bip[1,12544] = act2
.view last bip[1,14,14,32] = act1 perm=[0,2,3,1] axis=3
.win pool channels=32 kernel=[2,2] out=[14,14] strides=[2,2] pads=[0,0,0,0] dilations=[1,1]
.win conv.win channels=32 kernel=[3,3] out=[14,14] strides=[1,1] pads=[1,1,1,1] \
dilations=[1,1] seg=128
.map t[0] 17 -> 250

.load
conv:
  for s in 0:3
    reset t[0][32 + 64*s +: 64], conv.w[0:64], seg=s
    set t[0][32 + 64*s +: 64], conv.w[0:64], seg=s
  end
fc:
  set t[1][0:10], fc.w

.infer
pre:
  host pre.onnx, (image) -> (act0)
pool:
  for p in 0:196
    pp.max act1[p], act0[p], pool
  end
conv:  # 32->64, 3x3
  for p in 0:196
    acc.clr %a[0:64]
    for s in 0:3
      ld.window %x, act1[p], conv.win, seg=s
      read.xor %d[0:64], t[0][32 + 64*s +: 64], %x
      popc %c[0:64], %d[0:64]
      acc.add %a[0:64], %x.valid
      acc.sub %a[0:64], %c[0:64], shl=1
    end
    st.ge act2[p, 0:64], %a[0:64], conv.th[0:64], flip=conv.flip
  end
fc:
  acc.clr %b[0:10]
  par s in 0:98
    ld.vector %x, flat[0], seg=s, width=128
    read.and %d[0:10], t[1][0:10], %x
    popc %c[0:10], %d[0:10]
    acc.add %b[0:10], %c[0:10], shl=1
  end
  acc.sub %b[0:10], fc.bias
  st.acc logits[0], %b[0:10]

.update
probe:
  ld.row %x, t[0][5], cols=0:9
"""
)

DATA = [
    Data("conv.w", "cells", _rng.integers(0, 2, (64, 288), dtype=np.uint8), seg=128),
    Data("fc.w", "cells", _rng.integers(0, 2, (10, 128), dtype=np.uint8)),
    Data("conv.th", "i32", _rng.integers(-100, 100, 64, dtype=np.int32)),
    Data("conv.flip", "bip", np.where(_rng.random(64) < 0.5, -1, 1).astype(np.int8)),
    Data("fc.bias", "i32", np.arange(10, dtype=np.int32)),
    Data("pre.onnx", "onnx", np.arange(13, dtype=np.uint8), macs=3),
]


def program(text: str = TEXT) -> Program:
    """The program of `text` with the data items that `TEXT` uses."""
    result = parse(text, "t.cim")
    result.data.extend(DATA)
    return result


def full_text() -> str:
    """`TEXT` with its data lines."""
    return print_program(program())


def changed(old: str, new: str) -> str:
    """`TEXT` with the one occurrence of `old` replaced."""
    assert TEXT.count(old) == 1, f"{TEXT.count(old)} times: {old}"
    return TEXT.replace(old, new)


def marked(text: str) -> tuple[str, str, str]:
    """`text` without the marks « and », their place as `line:column`, and what they enclose."""
    before, rest = text.split("«")
    under, after = rest.split("»")
    line = before.count("\n") + 1
    column = len(before) - (before.rfind("\n") + 1) + 1
    return before + under + after, f"{line}:{column}", under


def errors(error: CompileError) -> list[CompileError]:
    """The single errors of an error."""
    return error.errors if isinstance(error, CompileErrors) else [error]


def shown(error: CompileError) -> tuple[str, str]:
    """`line:column` of an error, and the text under its caret."""
    where = error.where
    assert isinstance(where, Span)
    assert where.file == "t.cim"
    under = where.source[where.column - 1 : where.column - 1 + where.width]
    return f"{where.line}:{where.column}", under
