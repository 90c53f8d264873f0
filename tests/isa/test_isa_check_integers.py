"""Static checks of what integer layers use: packs, spread windows, pads, scalars, requantising,
tables, sums of windows and of quantised values."""

from __future__ import annotations

import numpy as np
import pytest
from isa_texts import HEAD, errors, marked, shown

from cimc.errors import CompileError
from cimc.isa.check import check
from cimc.isa.program import Data
from cimc.isa.text import parse

WIN = ".win w channels=4 kernel=[2] out=[3] strides=[1] pads=[0,0] dilations=[1] groups=4"
DECLS = f"""\
.mem x u8[1,4,4]
.mem x4 u4[1,4,4]
.mem b bip[1,4,4]
.mem n i32[1,4,4]
.mem w64 u64[1,4,4]
.mem f f32[1,4,4]
.mem s i8[1,4,3]
.mem zero u8[1] axis=0
.mem zeros u8[1,3]
.mem real f32[1] axis=0
{WIN} pack=2
.win gaps channels=4 kernel=[2] out=[6] strides=[1] pads=[0,0] dilations=[1] up=[2]
.win rare channels=4 kernel=[1] out=[7] strides=[1] pads=[0,0] dilations=[1] up=[2]
"""


def vector(*values: float, dtype: type = np.float32) -> np.ndarray:
    return np.array(values, dtype)


DATA = [
    Data("k", "i32", vector(1, 2, 3, 4, dtype=np.int32)),
    Data("k2", "i32", np.ones((4, 2), np.int32)),
    Data("scale", "f32", vector(0.5, 1, 2, 3)),
    Data("scale2", "f32", np.ones((4, 1), np.float32)),
    Data("none", "f32", vector(0.5, 1, 0, 3)),
    Data("endless", "f32", vector(0.5, 1, np.inf, 3)),
    Data("wide", "f64", np.ones(4)),
    Data("signs", "bip", vector(1, -1, dtype=np.int8)),
    Data("two", "u8", vector(1, 0, 1, 1, dtype=np.uint8)),
    Data("bytes", "u8", np.zeros(256, np.uint8)),
    Data("few", "u8", np.zeros(255, np.uint8)),
    Data("square", "u8", np.zeros((16, 16), np.uint8)),
    Data("six", "f32", vector(0.5, 10, 0.25, 20, 1, 30)),
    Data("five", "f32", vector(0.5, 10, 0.25, 20, 1)),
    Data("negative", "f32", vector(0.5, 10, -0.25, 20, 1, 30)),
    Data("x_zero", "f32", vector(0.5, 256, 0.25, 20, 1, 30)),
    Data("y_zero", "f32", vector(0.5, 10, 0.25, 0.5, 1, 30)),
    Data("zero_", "f32", vector(0.5, 10, 0.25, 20, 1, -1)),
]
READ = """\
  ld.vector %x, x[0]
  read.and %d[0:4], t[0][0:4], %x
"""


def found(text: str) -> list[CompileError]:
    parsed = parse(text, "t.cim")
    parsed.data += DATA
    try:
        check(parsed)
    except CompileError as error:
        return errors(error)
    return []


def program(code: str) -> str:
    lines = "".join(f"  {line}\n" for line in code.split("; "))
    return f"{HEAD}{DECLS}.infer\nl:\n{READ}  acc.clr %a[0:4]\n  acc.clr %s[0:4]\n{lines}"


@pytest.mark.parametrize(
    "code",
    [
        "ld.window %x, x[0], w, group=1, pad=255",
        "ld.window %x, x[0], w, pad=zero[0]",
        "for i in 0:3; ld.window %x, x[i], w, pad=zeros[0, i +: 1]; end",
        "for i in 0:3; ld.window %x, x[i], w, pad=100*i; end",
        "ld.window %x, x4[0], w, pad=zero[0]",
        "ld.window %x, x[5], gaps, plane=7",
        "popc %c[0:4], %d[0:4], width=9",
        "popc %c[0:8], %d[0:4], width=64",
        "acc.mac %a[0:4], zero[0], k",
        "acc.mac %a[2:4], %s[1:2], k[0:2]",
        "acc.mac %a[0:4], zeros[0, 2:3], k[0:4]",
        "st.rq x[0], %a[0:4], scale, zero=255",
        "st.rq s[0, 1:3], %a[0:2], scale[2:4], zero=-128",
        "st.rq x[0], %a[0:2], scale, take=two",
        "st.acc n[0], %a[0:2], take=two",
        "st.acc n[0, 0:3], %a[0:4], take=k[0:3]",
        "st.acc n[0, 1:2], %a[3:4], take=two[1:2]",
        "for i in 0:2; st.ge b[0, 2*i +: 2], %a[2*i +: 2], k[2*i +: 2], take=two[2*i +: 2]; end",
        "pp.rq x[0], n[0], scale, zero=1",
        "pp.sum n[0], x[2], w, zero=255",
        "pp.sum n[0], x[6], rare",
        "pp.max x[0], x[5], gaps",
        "pp.lut x[0], x[1], bytes",
        "pp.qadd x[0], x[1], x[2], six, fused=1",
    ],
)
def test_valid(code: str) -> None:
    assert found(program(code)) == []


@pytest.mark.parametrize(
    ("code", "message"),
    [
        # windows
        ("ld.window %x, x[0], w, «group=2»", "`group` is 2; 2 packs of groups: 0 … 1"),
        ("ld.window %x, x[0], w, «seg=1»", "`seg` is 1; 1 segments: 0 … 0"),
        ("ld.window %x, x[0], w, «col=125»", "columns 125:129 are outside the 128 columns"),
        ("ld.window %x, x[0], w, «pad=256»", "`pad` is 256; u8 holds 0 … 255"),
        ("ld.window %x, x4[0], w, «pad=16»", "`pad` is 16; u4 holds 0 … 15"),
        ("for i in 0:3; ld.window %x, x[i], w, «pad=i - 1»; end", "`pad` is -1 … 1; u8 holds"),
        ("ld.window %x, b[0], w, «pad=0»", "taps outside a buffer of bip are not valid"),
        ("ld.window %x, x[0], w, «pad=zero»", "unknown loop variable `zero`"),
        ("ld.window %x, x[0], w, «pad=zeros[0]»", "expected a number, or one integer of a buffer"),
        ("ld.window %x, x[0], w, «pad=0:1»", "expected a number, or one integer of a buffer"),
        ("ld.window %x, x[0], w, «pad=real[0]»", "expected a number, or one integer of a buffer"),
        ("ld.window %x, x[0], w, «pad=nil[0]»", "unknown name `nil`"),
        ("ld.window %x, x[0], w, «pad=k[0]»", "`k` is a data item, expected a number, or one"),
        ("ld.window %x, x[0], w, «pad=zero[1]»", "position 1 is outside the 1 of `zero`"),
        ("ld.window %x, x[0], w, «pad=zeros[0, 3:4]»", "3:4 is outside the 3 channels of `zeros`"),
        ("ld.window %x, «x[6]», gaps", "position 6 is outside the 6 windows"),
        ("pp.max x[0], x[0], «rare»", "a window of `rare` lies wholly outside the buffer"),
        # counts
        ("popc %c[0:5], «%d[0:4]»", "sizes differ: 4 here, 5 in the first operand"),
        ("popc «%c[0:6]», %d[0:4], width=2", "6 counts for 4 rows: not so many for each"),
        ("popc %c[0:8], %d[0:4], «width=65»", "2 times 65 columns; a tile has 128"),
        ("popc %c[0:8], %d[0:4], «width=-1»", "2 times -1 columns"),
        ("for i in 1:3; popc %c[0:8], %d[0:4], «width=i»; end", "must be constant"),
        ("for i in 1:3; popc %c[0:i], %d[0:4], «width=1»; end", "must be constant"),
        # multiples of scalars
        ("acc.mac %a[0:4], «zero», k", "which position of `zero`?"),
        ("acc.mac %a[0:4], «zeros[0]», k", "expected one integer"),
        ("acc.mac %a[0:4], «real[0]», k", "expected one integer"),
        ("acc.mac %a[0:4], «%s[0:2]», k", "expected one integer"),
        ("acc.mac %a[0:4], «%s», k", "expected accumulators"),
        ("acc.mac %a[0:4], «3», k", "expected one integer"),
        ("acc.mac %a[0:4], «%d[0:1]», k", "`%d` is used as acc, and as bits before"),
        ("acc.mac %a[0:4], zero[0], «k[0:3]»", "sizes differ: 3 here, 4 in the first operand"),
        ("acc.mac %a[0:4], zero[0], «k2»", "`k2` must be a vector of integers"),
        ("acc.mac %a[0:4], zero[0], «scale»", "`scale` must be a vector of integers"),
        # requantising
        ("st.rq x[0], %a[0:4], «none»", "`none` must be a vector of finite f32 numbers above 0"),
        ("st.rq x[0], %a[0:4], «endless»", "must be a vector of finite f32 numbers above 0"),
        ("st.rq x[0], %a[0:4], «wide»", "must be a vector of finite f32 numbers above 0"),
        ("st.rq x[0], %a[0:4], «scale2»", "must be a vector of finite f32 numbers above 0"),
        ("st.rq x[0], %a[0:4], «scale[0:2]»", "sizes differ: 2 here, 4 in the first operand"),
        ("st.rq x[0], %a[0:4], scale, «zero=256»", "`zero` is 256; u8 holds 0 … 255"),
        ("st.rq s[0], %a[0:4], scale, «zero=-129»", "`zero` is -129; i8 holds -128 … 127"),
        ("st.rq «n[0]», %a[0:4], scale", "uN or iN of at most 16 bits, not i32"),
        ("st.rq «b[0]», %a[0:4], scale", "uN or iN of at most 16 bits, not bip"),
        ("pp.rq x[0], «f[0]», scale", "integers are requantised, not f32"),
        # takes
        ("st.acc n[0], %a[0:4], «take=k»", "`k` takes accumulator 1 … 4 of 4"),
        ("st.rq x[0], %a[1:2], scale, «take=two»", "`two` takes accumulator 0 … 1 of 1"),
        ("st.ge b[0, 0:2], %a[0:4], k[0:2], «take=signs»", "takes accumulator -1 … 1 of 4"),
        ("st.acc n[0], %a[0:2], «take=two[0:2]»", "sizes differ: 2 here, 4 in the first operand"),
        ("st.rq x[0], %a[0:2], «scale[0:2]», take=two", "sizes differ: 2 here, 4 in the first"),
        ("st.acc n[0], %a[0:4], «take=scale»", "`scale` must be a vector of integers"),
        ("st.acc n[0], %a[0:4], «take=k2»", "`k2` must be a vector of integers"),
        ("st.acc n[0], %a[0:4], «take=2»", "expected constants"),
        ("st.acc n[0], %a[0:4], «take=zeros[0]»", "`zeros` is a buffer, expected constants"),
        # sums, tables, quantised sums
        ("pp.sum n[0], x[0], w, «zero=256»", "`zero` is 256; u8 holds 0 … 255"),
        ("pp.sum n[0], «f[0]», w", "integers of at most 32 bits are summed, not f32"),
        ("pp.sum n[0], «w64[0]», w", "integers of at most 32 bits are summed, not u64"),
        ("pp.sum «f[0]», x[0], w", "a sum of integers can't be stored as f32"),
        ("pp.sum n[0], x[0], «gaps[0]»", "expected the name of a window"),
        ("pp.sum n[0], «x[3]», w", "position 3 is outside the 3 windows"),
        ("pp.lut x[0], x[0], «few»", "`few` has 255 elements; u8 has 256 values"),
        ("pp.lut x[0], x4[0], «bytes»", "`bytes` has 256 elements; u4 has 16 values"),
        ("pp.lut x[0], «n[0]», bytes", "a table is for uN and iN of at most 16 bits, not i32"),
        ("pp.lut x[0], «b[0]», bytes", "a table is for uN and iN of at most 16 bits, not bip"),
        ("pp.lut n[0], x[0], «bytes»", "`bytes` is u8, the buffer i32"),
        ("pp.lut x[0], x[0], «square»", "`square` must be a vector of constants"),
        ("pp.lut x[0], x[0], «bytes[0:9]»", "expected the name of a data item"),
        ("pp.qadd x[0], «n[0]», x[0], six", "uN or iN of at most 8 bits, not i32"),
        ("pp.qadd «f[0]», x[0], x[0], six", "uN or iN of at most 8 bits, not f32"),
        ("pp.qadd x[0], x[0], x[0], «five»", "`five` must be f32[6]: x_scale, x_zero"),
        ("pp.qadd x[0], x[0], x[0], «negative»", "scales finite and above 0"),
        ("pp.qadd x[0], x[0], x[0], «x_zero»", "x_zero of `x_zero` is 256; u8 holds 0 … 255"),
        ("pp.qadd x[0], x[0], x[0], «y_zero»", "y_zero of `y_zero` is 0.5; u8 holds 0 … 255"),
        ("pp.qadd x[0], x[0], x[0], «zero_»", "zero of `zero_` is -1; u8 holds 0 … 255"),
        ("pp.qadd x[0], x[0], x[0], six, «fused=2»", "`fused` is 2; 0 as written, 1 fused: 0 … 1"),
    ],
)
def test_code(code: str, message: str) -> None:
    text, place, under = marked(program(code))
    error = found(text)[0]
    assert shown(error) == (place, under)
    assert message in error.message


def test_a_bare_name_of_a_buffer_gets_its_form() -> None:
    (error,) = found(program("ld.window %x, x[0], w, pad=zero"))
    assert error.help == "one integer of a buffer is `zero[0]`"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("pack=0", "`pack` is 0; the window has 4 groups"),
        ("pack=5", "`pack` is 5; the window has 4 groups"),
        ("seg=4 pack=2", "a window with `pack` has no segments"),
        ("up=[2,1]", "`up` needs 1 positive numbers, as `kernel` has"),
        ("up=[0]", "`up` needs 1 positive numbers, as `kernel` has"),
    ],
)
def test_windows(settings: str, message: str) -> None:
    (error,) = found(f"{HEAD}{WIN} {settings}\n")
    assert (shown(error), error.message) == (("4:1", f"{WIN} {settings}"), message)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        # a scalar is read by each iteration
        ("par i in 0:3; ld.window %y, x[i], w, pad=zero[0]; end", ""),
        (
            "par i in 0:3; ld.window %y, x[i], w, «pad=zeros[0, 0:1]»; "
            "pp.mov zeros[0, i +: 1], x[0, 0:1]; end",
            "`zeros` is read here while other iterations of the `par` write it",
        ),
        (
            "par i in 0:3; acc.clr %b[0:4]; acc.mac %b[0:4], «zeros[0, 0:1]», k; "
            "pp.mov zeros[0, i +: 1], x[0, 0:1]; end",
            "`zeros` is read here while other iterations of the `par` write it",
        ),
        # sums over iterations
        ("par i in 0:3; acc.mac %a[0:4], zeros[0, i +: 1], k; end", ""),
        ("par i in 0:3; acc.mac %a[0:4], «%u[0:1]», k; acc.clr %u[0:1]; end", "`%u`"),
        ("par i in 0:3; acc.mac %a[0:4], «%a[0:1]», k; end", "share `%a`"),
        ("acc.mac %a[0:4], «%u[0:1]», k", "`%u` is read here before it is written"),
        ("acc.mac «%u[0:4]», %s[0:1], k", "`%u` is read here before it is written"),
    ],
)
def test_flow(code: str, message: str) -> None:
    if not message:
        assert found(program(code)) == []
        return
    text, place, under = marked(program(code))
    error = found(text)[0]
    assert shown(error) == (place, under)
    assert message in error.message
