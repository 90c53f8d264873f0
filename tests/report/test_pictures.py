"""The files of a report: pictures that show what they say, and a page that needs no other file."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from cimc.errors import CompileError, CompileErrors
from cimc.frontend.operations import LayerOps
from cimc.frontend.reduction import compare
from cimc.report import pages, pictures
from cimc.report.curves import Curve, read_curves
from cimc.report.kernels import Layer

pytest.importorskip("matplotlib", reason="pictures need the extra `plot`")

KEPT, REMOVED = (0, 114, 178), (213, 94, 0)


def _layer(kept: list[int], shape: tuple[int, ...] = (9, 1, 3, 3)) -> Layer:
    before = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    return Layer("conv", before, before[kept], np.array(kept))


def _pixels(data: bytes) -> Any:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def _area(data: bytes, color: tuple[int, int, int]) -> int:
    return int((_pixels(data) == color).all(axis=2).sum())


def test_strips_show_the_share_that_is_removed() -> None:
    """6 of 9 kept: blue has twice the pixels of vermilion, but for the edges."""
    data = pictures.similarity(_layer([0, 1, 2, 4, 5, 8]), "png")
    assert _area(data, KEPT) / _area(data, REMOVED) == pytest.approx(2, rel=0.15)


def test_no_strips_where_kernels_are_not_matched() -> None:
    layer = Layer("conv", np.ones((3, 2), np.float32), np.ones((2, 1), np.float32), None)
    data = pictures.similarity(layer, "png")
    assert _area(data, KEPT) == _area(data, REMOVED) == 0


@pytest.mark.parametrize("shape", [(9, 1, 3, 3), (9, 3, 5, 5), (9, 20, 3, 3), (9, 40)])
def test_frames_show_what_is_kept_and_removed(shape: tuple[int, ...]) -> None:
    some = pictures.kernels(_layer([0, 3, 4, 5], shape), "png")
    assert _area(some, KEPT) > 100
    assert _area(some, REMOVED) > 100
    none_left = pictures.kernels(Layer("conv", _layer([0], shape).before, None, None), "png")
    assert _area(none_left, KEPT) == 0


def test_many_kernels_fit_a_picture() -> None:
    layer = _layer([0], (700, 3, 7, 7))
    height, width, _ = _pixels(pictures.kernels(layer, "png")).shape
    assert height < 1.6 * width


def test_one_kernel_and_kernels_of_zeros() -> None:
    before = np.ones((2, 1, 3, 3), np.float32)
    for after in (before[:1], 0 * before):
        layer = Layer("conv", before, after, np.arange(len(after)))
        assert _pixels(pictures.similarity(layer, "png")).std() > 0
        assert _pixels(pictures.kernels(layer, "png")).std() > 0


def _ops(name: str, kernels: int) -> LayerOps:
    macs = 1000 * kernels
    return LayerOps(name, "Conv", kernels, 10, 1, 1, 100, macs, macs, 10 * kernels, 0, kernels)


def test_bars_are_to_scale() -> None:
    """A quarter of the kernels left: a blue bar a quarter as long as the whole grey one."""
    found = compare([_ops("a", 8)], [_ops("a", 32)], "m")
    blue = (_pixels(pictures.operations(found, "png")) == KEPT).all(axis=2)
    grey = (_pixels(pictures.operations(found, "png")) == (200, 200, 200)).all(axis=2)
    lengths = [mask[:-60].any(axis=0).nonzero()[0] for mask in (blue, grey)]  # no legend
    start = lengths[0].min()
    assert (lengths[0].max() - start) / (lengths[1].max() - start) == pytest.approx(0.25, abs=0.02)


CURVES = [Curve("ours", ((0.0, 0.99), (0.5, 0.98))), Curve("random", ((0.0, 0.99), (0.5, 0.7)))]


def test_svg_is_xml_and_the_same_each_time() -> None:
    layer = _layer([0, 1])
    for make in (
        lambda: pictures.accuracy(CURVES, "svg"),
        lambda: pictures.similarity(layer, "svg"),
        lambda: pictures.kernels(layer, "svg"),
    ):
        data = make()
        assert ElementTree.fromstring(data).tag.endswith("svg")
        assert data == make()


def test_page_needs_no_other_file(tmp_path: Path) -> None:
    made = pages.draw(None, CURVES, "svg") + pages.draw(None, CURVES, "png")
    pages.write(tmp_path / "out", made, "a <model>", ["x < y"])
    text = (tmp_path / "out" / "index.html").read_text()
    sources = re.findall(r'(?:src|href)="([^"]{0,30})', text)
    assert [s.split(";")[0] for s in sources] == ["data:image/svg+xml", "data:image/png"]
    assert "http" not in re.sub(r'src="[^"]*"', "", text)
    assert "a &lt;model&gt;" in text
    assert "x &lt; y" in text
    assert (tmp_path / "out" / "accuracy.svg").read_bytes() == made[0].data


def test_layers_of_one_name_have_files_of_their_own() -> None:
    assert len(set(pages._names(["a/b", "a_b", "a_b", "a_b-2", "a"]))) == 5


def test_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(CompileError, match="matplotlib, which is not installed") as error:
        pages.draw(None, CURVES, "png")
    assert error.value.help == "pip install 'cimc[plot]'"


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CompileError, match="file' is a file"):
        pages.check_folder(tmp_path / "file" / "out")


# -- curves ----------------------------------------------------------------------------


def _read(path: Path, content: object) -> list[Curve]:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return read_curves(path)


def test_curves_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "curves.json"
    assert _read(path, [{"label": "a", "points": [[0, 1], [0.5, 0.25]]}]) == [
        Curve("a", ((0.0, 1.0), (0.5, 0.25)))
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[{", "no JSON"),
        ({"label": "a"}, "expected a list of curves"),
        ([], "expected a list of curves"),
        ([{"label": "a"}], "curve 0: error: has no label or no points"),
        ([{"label": "a", "points": [[0, 98.5]]}], "'a' has a point [0, 98.5]"),
        ([{"label": "a", "points": [[0, True]]}], "'a' has a point [0, true]"),
        ([{"label": "a", "points": [[float("nan"), 0.5]]}], "'a' has a point [NaN, 0.5]"),
    ],
)
def test_curves_that_are_none(tmp_path: Path, content: object, message: str) -> None:
    with pytest.raises(CompileError) as error:
        _read(tmp_path / "curves.json", content)
    assert message in str(error.value)


def test_all_wrong_curves_at_once(tmp_path: Path) -> None:
    with pytest.raises(CompileErrors, match="no label") as error:
        _read(tmp_path / "curves.json", [3, {"label": "b", "points": [[2, 0]]}])
    assert len(error.value.errors) == 2
