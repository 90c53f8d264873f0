"""`cimc demo`: the whole way with a trained network that comes with the package."""

from __future__ import annotations

import io
import json
import shutil
import sys
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from cimc.api import RunResult

_MODEL, _DATA = "digits.onnx", "digits-test.npz"
_PROGRAM, _PICTURE = "digits.cim", "digits-floorplan.png"
_OUTPUTS, _COUNTS = "digits-outputs.npz", "digits-counts.json"
_LEFT = {
    _MODEL: "the network",
    _DATA: "the test images and their labels",
    _PROGRAM: "the program: instructions, weights and geometry, one text file",
    _PICTURE: "its tiles and the kernels on them",
    _OUTPUTS: "its outputs for the test images",
    _COUNTS: "counts and energy of the run",
}
_NEXT = {
    f"inspect {_PROGRAM}": "layers, tiles, and what runs on the host and why",
    f"eval {_PROGRAM} --data {_DATA}": "the accuracy again",
    f"check {_MODEL} {_PROGRAM} --samples 20": "bit for bit on random images",
    f"inspect {_MODEL} --set rows=64 --set cols=64": "on smaller tiles",
    f"compile {_MODEL} -o other.cim --target ideal": "for other hardware",
}


@click.command()
@click.pass_context
def command(ctx: click.Context) -> None:
    """Compile, run and check a trained network for handwritten digits.

    Leaves its files in the current folder.
    """
    from cimc import api, oracle
    from cimc.cli.arrays import write_npz
    from cimc.cli.progress import progress_bar
    from cimc.cli.summary import print_summary
    from cimc.cost import floorplan
    from cimc.cost.layout import layout
    from cimc.cost.layout_report import print_layers, print_tiles
    from cimc.cost.report import make_console, print_counts_and_energy, to_json
    from cimc.textfile import write_text

    images, labels = _unpack()
    console = make_console()

    _step("Compile: a binarised network for images of 8 x 8 pixels")
    compiled = api.compile(_MODEL)
    compiled.save(_PROGRAM)
    print_summary(compiled.program, _PROGRAM)

    _step("Where its kernels lie")
    plan = layout(compiled.program)
    floorplan.save(plan, _PROGRAM, _PICTURE)
    print_layers(plan, console)
    print_tiles(plan, console)

    _step(f"Run: {len(labels)} test images that the training did not see")
    with progress_bar("images") as progress:
        result = compiled.run({"image": images}, progress=progress)
    write_npz(Path(_OUTPUTS), result.outputs)
    write_text(_COUNTS, json.dumps(to_json(result, result.energy), indent=2) + "\n")
    click.echo(f"top-1 {_accuracy(result, labels)}")
    print_counts_and_energy(result, result.energy, console)

    _step("Check: the same images in onnxruntime")
    reference = oracle.open_oracle(_MODEL, compiled.program)
    comparisons = oracle.compare(reference({"image": images}), result.outputs)
    for comparison in comparisons:
        click.echo(str(comparison))
    verdict = oracle.verdict(comparisons)
    click.echo(f"bit-exact: {verdict}")

    _step("Files left in this folder")
    _list(_LEFT)
    _step("Try next")
    cimc = _own_name()
    _list({f"{cimc} {arguments}": what for arguments, what in _NEXT.items()})
    ctx.exit(0 if verdict == "yes" else 1)


def _unpack() -> tuple[Any, Any]:
    """Copy the network and its data from the package to this folder; the test images and
    labels. Raises CompileError where the folder can't be written to."""
    import numpy as np

    from cimc.errors import CompileError
    from cimc.textfile import write_bytes

    package = resources.files("cimc.examples")
    model = (package / "digits_bnn.onnx").read_bytes()
    data = (package / "digits_test.npz").read_bytes()
    try:
        write_bytes(_MODEL, model)
        write_bytes(_DATA, data)
    except CompileError as error:
        help = "the demo leaves its files in the current folder: run it in one of your own"
        raise CompileError(error.message, error.where, help) from None
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        return arrays["x_test"], arrays["y_test"]


def _own_name() -> str:
    """How to call this program again: by its path, if the shell would not find it."""
    called = sys.argv[0]
    found = shutil.which("cimc")
    if Path(called).name != "cimc" or (found and Path(found).resolve() == Path(called).resolve()):
        return "cimc"
    return called


def _accuracy(result: RunResult, labels: Any) -> str:
    right = int((result.outputs["logits"].argmax(axis=1) == labels).sum())
    return f"{100 * right / len(labels):.2f} % ({right}/{len(labels)})"


def _step(title: str) -> None:
    click.echo()
    click.secho(title, bold=True)


def _list(lines: dict[str, str]) -> None:
    width = max(map(len, lines))
    for left, right in lines.items():
        click.echo(f"  {left:<{width}}  {right}")
