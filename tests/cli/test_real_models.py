"""Every real model of `../shared/models`: compiles and runs in the pipelines `exact` and `auto`,
and equals its reference."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_calls import call

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT.parent / "shared" / "models"
# name: sizes of inputs that can't be known from the file
MODELS: dict[str, list[str]] = {
    "connxr_mnist_quantized": [],
    "mlperftiny_kws_dscnn_int8_qdq": [],
    "onnxzoo_mnist-8": [],
    "qonnx_espcn_nn_resize_quant": [],
    "qonnx_zoo_TFC_1W1A": [],
    "st_mobilenet_v2_035_128": [],
    "tract_byte_sb_bidi_lstm": ["--shape", "input=1,5"],
}
OWN = ["mnist/mnist_bnn.onnx", "digits/digits_bnn.onnx"]


def compile_and_check(
    capsys: pytest.CaptureFixture[str], model: Path, folder: Path, pipeline: str, sizes: list[str]
) -> str:
    program = folder / "out.cim"
    result = call(capsys, "compile", model, "-o", program, "-p", pipeline, *sizes)
    assert result.code == 0, result
    result = call(capsys, "check", model, program, "--samples", 1)
    assert result.code == 0, result
    return result.out.splitlines()[-1]


@pytest.mark.parametrize("pipeline", ["exact", "auto"])
@pytest.mark.parametrize("name", MODELS)
def test_shared_models(
    name: str, pipeline: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = FOLDER / f"{name}.onnx"
    if not model.exists():
        pytest.skip("../shared/models is not there")
    verdict = compile_and_check(capsys, model, tmp_path, pipeline, MODELS[name])
    assert verdict.startswith(("bit-exact: yes", "bit-exact: n/a"))


@pytest.mark.parametrize("pipeline", ["exact", "auto"])
@pytest.mark.parametrize("name", OWN)
def test_own_networks(
    name: str, pipeline: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    verdict = compile_and_check(capsys, ROOT / "examples" / name, tmp_path, pipeline, [])
    assert verdict == "bit-exact: yes"
