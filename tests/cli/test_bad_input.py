"""Everything a user can hand over that is wrong: one clear error with place and help, exit
code 1, nothing written, never a traceback."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_calls import call, fails
from onnx import TensorProto, helper
from small_models import bnn, model, save

Capture = pytest.CaptureFixture[str]
F32 = TensorProto.FLOAT


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with `net.onnx` and an older `out.cim`."""
    save(bnn(), tmp_path / "net.onnx")
    (tmp_path / "out.cim").write_text("old")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def compile_fails(capsys: Capture, file: str, *args: str) -> str:
    """The message of `cimc compile`, which leaves an older output alone and adds no file."""
    before = sorted(Path().rglob("*"))
    message = fails(capsys, "compile", file, "-o", "out.cim", *args)
    assert Path("out.cim").read_text() == "old"
    assert sorted(Path().rglob("*")) == before
    return message


# -- files that are no model --


def test_missing(folder: Path, capsys: Capture) -> None:
    assert compile_fails(capsys, "no.onnx") == "no.onnx: error: no such file\n"


def test_empty(folder: Path, capsys: Capture) -> None:
    Path("e.onnx").write_bytes(b"")
    assert "e.onnx: error: the file is empty\nhelp: " in compile_fails(capsys, "e.onnx")


@pytest.mark.parametrize(
    "data", [b"\x00", b"hello\n", b"PK\x03\x04" + bytes(50), bytes(range(256))]
)
def test_not_onnx(folder: Path, capsys: Capture, data: bytes) -> None:
    Path("n.onnx").write_bytes(data)
    assert compile_fails(capsys, "n.onnx").startswith("n.onnx: error: not an ONNX model")


def test_truncated_anywhere(folder: Path, capsys: Capture) -> None:
    data = Path("net.onnx").read_bytes()
    for size in range(1, len(data) - 1, max(1, len(data) // 40)):
        Path("t.onnx").write_bytes(data[:size])
        assert compile_fails(capsys, "t.onnx").startswith("t.onnx: error: ")


def test_damaged_bytes(folder: Path, capsys: Capture) -> None:
    """A flipped byte gives another model or an error with a place, never a traceback."""
    data = Path("net.onnx").read_bytes()
    rng = np.random.default_rng(0)
    for at in rng.integers(0, len(data), 40):
        Path("d.onnx").write_bytes(
            data[:at] + bytes([data[at] ^ (1 << int(rng.integers(8)))]) + data[at + 1 :]
        )
        result = call(capsys, "compile", "d.onnx", "-o", "d.cim")
        assert result.code in (0, 1), result
        if result.code:
            assert ": error: " in result.err, result


@pytest.mark.parametrize(
    "args",
    [
        ["compile", "dir", "-o", "out.cim"],
        ["compile", "net.onnx", "-o", "dir"],
        ["run", "dir"],
        ["fmt", "dir"],
        ["check", "dir"],
        ["eval", "dir", "--data", "dir"],
    ],
    ids=" ".join,
)
def test_directory(folder: Path, capsys: Capture, args: list[str]) -> None:
    (folder / "dir").mkdir()
    result = call(capsys, *args)
    assert result.code in (1, 2)
    assert "dir" in result.err
    assert not list((folder / "dir").iterdir())


def test_output_folder_is_missing(folder: Path, capsys: Capture) -> None:
    message = fails(capsys, "compile", "net.onnx", "-o", "no/out.cim")
    assert message.startswith("no/out.cim: error: can't write ")


def test_no_graph(folder: Path, capsys: Capture) -> None:
    import onnx

    proto = onnx.ModelProto(ir_version=8)
    Path("n.onnx").write_bytes(proto.SerializeToString())
    assert "n.onnx: error: not an ONNX model" in compile_fails(capsys, "n.onnx")


# -- models that we don't take --


def test_ir_version(folder: Path, capsys: Capture) -> None:
    proto = bnn()
    proto.ir_version = 99
    save(proto, Path("v.onnx"))
    message = compile_fails(capsys, "v.onnx")
    assert message.startswith("v.onnx: error: ONNX IR version 99 is newer than ")
    assert "help: " in message


@pytest.mark.parametrize("version", [0, 99])
def test_opset(folder: Path, capsys: Capture, version: int) -> None:
    proto = bnn()
    proto.opset_import[0].version = version
    save(proto, Path("v.onnx"))
    message = compile_fails(capsys, "v.onnx")
    assert f"v.onnx: error: operator set {version} is not supported: 1 to " in message
    assert "help: " in message


def test_unknown_operators_are_listed_together(folder: Path, capsys: Capture) -> None:
    nodes = [
        helper.make_node("Foo", ["x"], ["a"], "first"),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Bar", ["b"], ["y"], "second"),
    ]
    save(model(nodes, [("x", F32, [2])], [("y", F32, [2])]), Path("u.onnx"))
    message = compile_fails(capsys, "u.onnx")
    assert "u.onnx: node 'first' (Foo): error: unknown operator Foo" in message
    assert "u.onnx: node 'second' (Bar): error: unknown operator Bar" in message


@pytest.mark.parametrize("bad", [np.nan])
def test_nan_weights(folder: Path, capsys: Capture, bad: float) -> None:
    weights = np.array([[1.0, bad], [bad, 2.0]], np.float32)
    nodes = [helper.make_node("MatMul", ["x", "fc.weight"], ["y"])]
    save(model(nodes, [("x", F32, [1, 2])], [("y", F32, [1, 2])], {"fc.weight": weights}),
         Path("nan.onnx"))  # fmt: skip
    message = compile_fails(capsys, "nan.onnx")
    assert message.startswith(
        "nan.onnx: tensor 'fc.weight': error: 2 of its 4 elements are NaN\nhelp: "
    )


def test_nan_in_a_constant_node(folder: Path, capsys: Capture) -> None:
    node = helper.make_node
    nodes = [node("Constant", [], ["c"], value_floats=[1.0, float("nan")]),
             node("Add", ["x", "c"], ["y"])]  # fmt: skip
    save(model(nodes, [("x", F32, [2])], [("y", F32, [2])]), Path("nan.onnx"))
    assert "tensor 'c': error: 1 of its 2 elements are NaN" in compile_fails(capsys, "nan.onnx")


def test_shapes_that_do_not_fit(folder: Path, capsys: Capture) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], "fc")]
    save(model(nodes, [("x", F32, [1, 3])], [("y", F32, [1, 2])], {"w": np.ones((2, 2), "f")}),
         Path("s.onnx"))  # fmt: skip
    assert compile_fails(capsys, "s.onnx").startswith("s.onnx: error: ")


def test_unknown_dimension(folder: Path, capsys: Capture) -> None:
    save(bnn(size="H", dense=False), Path("h.onnx"))
    message = compile_fails(capsys, "h.onnx")
    assert "h.onnx: error: input 'image' has the unknown dimension 'H' along axis 2" in message
    assert "help: give its size: --shape image=1,1,H,H" in message
    ok = call(capsys, "compile", "h.onnx", "-o", "h.cim", "--shape", "image=1,1,6,6")
    assert ok.code == 0, ok


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ("other=1,1,6,6", "--shape names no input: 'other'\nhelp: the inputs are 'image'"),
        ("image=1,6,6", "--shape image has 3 sizes"),
        ("image=1,1,7,6", "--shape image asks for 7 along axis 2, the model fixes 6"),
        ("image=0,1,6,6", "--shape image has a size of 0 along axis 0"),
    ],
)
def test_shape_option(folder: Path, capsys: Capture, shape: str, words: str) -> None:
    assert words in compile_fails(capsys, "net.onnx", "--shape", shape)


def test_accumulator(folder: Path, capsys: Capture) -> None:
    message = compile_fails(capsys, "net.onnx", "--set", "acc_bits=8")
    assert "layer 'conv': error: its sums reach 2295, which needs an accumulator of 13 bits" in (
        message
    )
    assert "help: " in message


def test_too_many_tiles(folder: Path, capsys: Capture) -> None:
    args = ["--set", "rows=4", "--set", "cols=8", "--set", "tiles=2"]
    message = compile_fails(capsys, "net.onnx", *args)
    need = re.search(r"the model needs (\d+) tiles of 4x8 cells, the target has 2", message)
    assert need is not None, message
    assert f"--set tiles={need[1]}" in message
    args[-1] = f"tiles={need[1]}"
    assert call(capsys, "compile", "net.onnx", "-o", "out.cim", *args).code == 0


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["-p", "exat"], "-p exat: error: no pass or pipeline 'exat'\nhelp: did you mean 'exact'?"),
        (["-p", "cleanup{x=1}"], "error: pass 'cleanup' has no option 'x'"),
        (["--target", "chip"], "chip"),
        (["--target", "no.toml"], "no.toml: error: "),
        (["--set", "rows=0"], "rows"),
        (["--set", "rows=many"], "rows"),
        (["--set", "row=1"], "row"),
        (["--set", "energy.sense=-1"], "energy.sense"),
        (["--plugin", "no.py"], "no.py: error: no such file"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_options(folder: Path, capsys: Capture, args: list[str], words: str) -> None:
    assert words in compile_fails(capsys, "net.onnx", *args)


# -- graphs in text --


def test_broken_graph(folder: Path, capsys: Capture) -> None:
    Path("g.cimir").write_text("graph @g(%x: i8[1]) -> (%y) {\n  %y = cim.relu(%z): i8[1]\n}\n")
    message = compile_fails(capsys, "g.cimir")
    assert message == (
        "g.cimir:2:17: error: %z is not defined\n"
        "    %y = cim.relu(%z): i8[1]\n"
        "                  ^^\n"
    )  # fmt: skip
    assert fails(capsys, "opt", "g.cimir", "-o", "h.cimir") == message
    assert not Path("h.cimir").exists()


def test_placed_graph_has_no_onnx_form(folder: Path, capsys: Capture) -> None:
    message = fails(capsys, "opt", "net.onnx", "-p", "exact,place", "--shape", "image=1,1,6,6",
                    "-o", "p.onnx")  # fmt: skip
    assert "a placed graph has no ONNX form" in message
    assert not Path("p.onnx").exists()


def test_output_of_another_kind(folder: Path, capsys: Capture) -> None:
    assert "expected a file .cimir or .onnx" in fails(capsys, "opt", "net.onnx", "-o", "x.txt")


# -- targets --


def target_text() -> str:
    return (resources.files("cimc.targets") / "ideal.toml").read_text()


def drop_figure(text: str, name: str) -> str:
    return re.sub(rf"\[{re.escape(name)}\]\n(?:[^\[\n].*\n|\n)*", "", text)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: drop_figure(t, "geometry.rows"), "rows"),
        (lambda t: drop_figure(t, "energy.sense"), "'sense' of [energy] is missing"),
        (lambda t: t.replace("value = 256", "value = -256", 1), "rows"),
        (lambda t: t.replace("value = 256", 'value = "many"', 1), "rows"),
        (lambda t: t.replace('status = "assumed"', 'status = "guessed"', 1), "status"),
        (lambda t: t.replace("[geometry.rows]", "[geometry.rowz]", 1), "rowz"),
        (lambda t: t.replace("value = 256", "value = ", 1), "error"),
        (lambda t: "", "error"),
    ],
)
def test_target_file(folder: Path, capsys: Capture, change: Any, words: str) -> None:
    text = change(target_text())
    assert text != target_text()
    Path("own.toml").write_text(text)
    message = compile_fails(capsys, "net.onnx", "--target", "own.toml")
    assert message.startswith("own.toml")
    assert words in message


# -- programs --


@pytest.fixture
def program(folder: Path, capsys: Capture) -> Path:
    assert call(capsys, "compile", "net.onnx", "-o", "net.cim").code == 0
    return folder / "net.cim"


def edit(path: Path, pattern: str, new: str) -> None:
    text = path.read_text()
    changed = re.sub(pattern, new, text, count=1)
    assert changed != text, "the edit must hit"
    path.write_text(changed)


@pytest.mark.parametrize(
    ("pattern", "new", "words"),
    [
        (r"\n(\s+)read\.", r"\n\1reed.", "reed"),
        (r"signs\[p, 0:4\]", "signs[p, 0:40]", "signs"),
        (r"for p in 0:16", "for p in 0:17", "signs"),
        (r"t\[0\]", "t[99]", "99"),
        (r'sha256="[0-9a-f]{4}', 'sha256="0000', "sha256"),
        (r"\.cim 1", ".cim 99", "99"),
        (r"rows=\d+", "rows=1", "row"),
        (r"\n\s+end\n", "\n", "end"),
        (r"\.mem \S+", ".mem", ".mem"),
    ],
)
def test_edited_program(program: Path, capsys: Capture, pattern: str, new: str, words: str) -> None:
    edit(program, pattern, new)
    message = fails(capsys, "run", "net.cim", "--output", "o.npz", "--json", "o.json")
    assert re.match(r"net\.cim:\d+:\d+: error: ", message), message
    assert words in message
    assert not Path("o.npz").exists()
    assert not Path("o.json").exists()
    assert fails(capsys, "check", "net.onnx", "net.cim").startswith("net.cim:")


@pytest.mark.parametrize("data", [b"", b"\n", b"hello", b"\xff\xfe\x00", b".cim 1\n"])
def test_no_program(folder: Path, capsys: Capture, data: bytes) -> None:
    Path("p.cim").write_bytes(data)
    assert fails(capsys, "run", "p.cim").startswith("p.cim")


def test_truncated_program(program: Path, capsys: Capture) -> None:
    text = program.read_text()
    for size in range(0, len(text) - 1, len(text) // 25):
        program.write_text(text[:size])
        assert fails(capsys, "run", "net.cim").startswith("net.cim")


# -- inputs --


def good(count: int = 2) -> Any:
    return np.zeros((count, 1, 6, 6), np.uint8)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"picture": good()}, "input 'image' is missing"),
        ({"image": good(), "other": good()}, "there is no input 'other'"),
        ({"image": good()[:, :, :5]}, "image"),
        ({"image": good()[0]}, "image"),
        ({"image": good().astype(np.float32)}, "is float32, not uint8"),
        ({"image": good().astype(np.int64)}, "is int64, not uint8"),
        ({}, "input 'image' is missing"),
    ],
)
def test_input_arrays(program: Path, capsys: Capture, arrays: dict[str, Any], words: str) -> None:
    np.savez("in.npz", **arrays)
    message = fails(capsys, "run", "net.cim", "--input", "in.npz", "--output", "o.npz")
    assert words in message
    assert "help: " in message
    assert not Path("o.npz").exists()
    assert words in fails(capsys, "check", "net.onnx", "net.cim", "--input", "in.npz")


def test_input_files(program: Path, capsys: Capture) -> None:
    Path("text.npz").write_text("hello")
    Path("text.npy").write_text("hello")
    Path("text.png").write_text("hello")
    Path("text.csv").write_text("1,2")
    np.save("objects.npy", np.array([{}], object), allow_pickle=True)
    np.savez("objects.npz", image=np.array([{}], object))
    files = ["no.npz", "no.npy", "no.png", "text.npz", "text.npy", "text.png", "text.csv",
             "objects.npy", "objects.npz"]  # fmt: skip
    for file in files:
        message = fails(capsys, "run", "net.cim", "--input", file)
        assert message.startswith(f"{file}: error: ")
        assert fails(capsys, "check", "net.onnx", "--input", file).startswith(f"{file}: error: ")


def test_image_of_another_size(program: Path, capsys: Capture) -> None:
    from PIL import Image

    Image.new("RGB", (5, 6)).save("in.png")
    message = fails(capsys, "run", "net.cim", "--input", "in.png")
    assert message.startswith("in.png: error: the image has 5x6 pixels, input 'image' takes 6x6")


def test_no_samples(program: Path, capsys: Capture) -> None:
    """Nothing to compare is no verdict."""
    np.savez("in.npz", image=good(0))
    fails(capsys, "check", "net.onnx", "net.cim", "--input", "in.npz")
    fails(capsys, "run", "net.cim", "--input", "in.npz")


def test_other_model(program: Path, capsys: Capture) -> None:
    save(bnn(dense=False), Path("other.onnx"))
    assert "other.onnx" in fails(capsys, "check", "other.onnx", "net.cim")
    save(bnn(size=8, dense=False), Path("larger.onnx"))
    fails(capsys, "check", "larger.onnx", "net.cim")


def test_other_pipeline(program: Path, capsys: Capture) -> None:
    result = call(capsys, "check", "net.onnx", "net.cim", "-p", "cleanup")
    assert result.code == 2


def test_engine(program: Path, capsys: Capture) -> None:
    result = call(capsys, "run", "net.cim", "--engine", "fast")
    assert result.code == 2
    assert "'fast' is not one of 'packed', 'lanes', 'reference'" in result.err


def test_eval_data(program: Path, capsys: Capture) -> None:
    np.savez("no_y.npz", x_test=good())
    np.savez("uneven.npz", x_test=good(), y_test=np.zeros(3, int))
    np.savez("shape.npz", x_test=good()[:, :, :3], y_test=np.zeros(2, int))
    np.savez("none.npz", x_test=good(0), y_test=np.zeros(0, int))
    for file in ("no.npz", "no_y.npz", "uneven.npz", "shape.npz", "none.npz"):
        message = fails(capsys, "eval", "net.cim", "--data", file)
        assert message.startswith(f"{file}: error: ")
    message = fails(capsys, "eval", "net.cim", "--data", "no_y.npz", "--split", "train")
    assert "has no array 'x_train'\nhelp: it has: x_test" in message


def test_fmt_of_other_files(folder: Path, capsys: Capture) -> None:
    assert "expected a program .cim or a graph .cimir" in fails(capsys, "fmt", "net.onnx")
    assert fails(capsys, "fmt", "no.cim").startswith("no.cim: error: ")
    Path("b.cimir").write_text("graph @g(")
    assert fails(capsys, "fmt", "-i", "b.cimir").startswith("b.cimir:1:")
    assert Path("b.cimir").read_text() == "graph @g("
