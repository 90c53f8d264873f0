"""What the tests of removal share: running models, and comparing what two of them compute."""

from __future__ import annotations

import numpy as np
import onnx

from cimc.frontend.export import to_onnx
from cimc.frontend.importer import import_model
from cimc.frontend.session import call, open_session
from cimc.ir.verify import verify
from cimc.prune.dead import remove_dead_channels

ROUNDS = 8


def imported(model):
    return import_model(model, "case")


def run(model, samples):
    """The outputs of each sample, by name."""
    session = open_session(model.SerializeToString(), "case", threads=1)
    names = [o.name for o in session.get_outputs()]
    return [dict(zip(names, call(session, dict(s), "case"))) for s in samples]


def exported(graph):
    """The graph as ONNX, both found to be valid."""
    verify(graph)
    model = to_onnx(graph)
    onnx.checker.check_model(model, full_check=True)
    return model


def assert_same(expected, found, *, exact):
    """Equal values, of equal bits but for the sign of zeros; or within 1e-4 of the largest."""
    for one, other in zip(expected, found, strict=True):
        assert one.keys() == other.keys()
        for name, array in one.items():
            assert array.shape == other[name].shape, name
            if exact:
                np.testing.assert_array_equal(other[name], array, err_msg=name)
                continue
            limit = 1e-4 * max(float(np.abs(array).max(initial=0)), 1e-3)
            np.testing.assert_allclose(other[name], array, rtol=0, atol=limit, err_msg=name)


def to_the_end(graph):
    """Dead channels removed until none is left: how many went in all."""
    total = 0
    for _ in range(ROUNDS):
        removed = remove_dead_channels(graph)
        total += removed.channels
        if not removed.changed:
            return total
    raise AssertionError("no fixed point")
