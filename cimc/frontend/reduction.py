"""A pruned form against its dense original: which operations are gone, by layer and in all, and
by the rule of the published scripts.

Takes the counts of `operations.py`; `cimc.cost` prints the result, passes note it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from cimc.errors import CompileError, raise_all
from cimc.frontend.operations import LayerOps
from cimc.ir.names import identifier


@dataclass(frozen=True)
class Pair:
    """A layer now and in the dense original; one of them None where the other has no such
    layer."""

    now: LayerOps | None
    dense: LayerOps | None

    @property
    def name(self) -> str:
        layer = self.now or self.dense
        assert layer is not None
        return layer.name


@dataclass(frozen=True)
class Sums:
    """MACs of several layers: of the dense original, those that are computed now, and those of
    them that meet weights other than zero. Weights of the dense original, and those that are
    neither zero nor gone. known: whether all of the zeros are told; those of programs are not."""

    dense: int
    macs: int
    effective: int
    weights: int
    nonzero: int
    known: bool

    @property
    def removed(self) -> float:
        """Share of the dense MACs that is not computed or meets zeros only, 0 to 1."""
        return 1 - self.effective / self.dense if self.dense else 0.0

    @property
    def zero_share(self) -> float:
        """Share of the dense weights that is zero or gone, as the published scripts log."""
        return 1 - self.nonzero / self.weights if self.weights else 0.0


@dataclass(frozen=True)
class Comparison:
    """A pruned form against its dense original, layer by layer in the original's order."""

    pairs: tuple[Pair, ...]

    @property
    def all_layers(self) -> Sums:
        return _sums(self.pairs)

    @property
    def convolutions(self) -> Sums:
        return _sums([p for p in self.pairs if _any(p).convolution])

    @property
    def scripted(self) -> float | None:
        """Reduction by the published scripts' own rule (`count_pruned_ratio`): over the
        convolutions that are not depthwise, in the file's order, kernels x input channels x
        taps, the input channels being the live kernels of the convolution before (for the first,
        its own), in both sums. No spatial size, no branches. None without convolutions."""
        whole = left = 0
        before: int | None = None
        for pair in self.pairs:
            layer = pair.dense or _any(pair)
            if not layer.scripted:
                continue
            channels = layer.inputs // layer.taps * layer.groups if before is None else before
            before = pair.now.live if pair.now is not None else 0
            whole += layer.kernels * channels * layer.taps
            left += before * channels * layer.taps
        return 1 - left / whole if whole else None

    def to_json(self) -> dict[str, Any]:
        """Plain dicts and lists."""
        sums = {"all": self.all_layers, "convolutions": self.convolutions}
        return {
            "layers": [
                {
                    "name": p.name,
                    "now": asdict(p.now) if p.now else None,
                    "dense": asdict(p.dense) if p.dense else None,
                }
                for p in self.pairs
            ],
            **{
                name: asdict(s) | {"removed": s.removed, "zero_share": s.zero_share}
                for name, s in sums.items()
            },
            "published_definition": {"removed": self.scripted},
        }


def compare(now: Sequence[LayerOps], dense: Sequence[LayerOps], where: str) -> Comparison:
    """Match layers by name, equal names in their order.

    where: how errors name the pruned form. Raises CompileError where no layer is in both, and
    for each layer that has become larger."""
    keyed = dict(_keyed(now))
    pairs = [Pair(keyed.pop(key, None), layer) for key, layer in _keyed(dense)]
    if not any(p.now for p in pairs) and (now or dense):
        raise CompileError(
            f"no layer of the dense model is in it: it has {_names(now)}, not {_names(dense)}",
            where,
            help="layers are matched by their names in the ONNX files",
        )
    raise_all([error for pair in pairs if (error := _misfit(pair, where)) is not None])
    return Comparison((*pairs, *(Pair(layer, None) for layer in keyed.values())))


def alone(layers: Sequence[LayerOps]) -> Comparison:
    """A model that is its own dense original: only zeros count as removed."""
    return Comparison(tuple(Pair(layer, layer) for layer in layers))


def _keyed(layers: Sequence[LayerOps]) -> Iterator[tuple[tuple[str, int], LayerOps]]:
    seen: Counter[str] = Counter()
    for layer in layers:
        key = identifier(layer.name)  # as programs write it
        yield (key, seen[key]), layer
        seen[key] += 1


def _names(layers: Sequence[LayerOps]) -> str:
    shown = ", ".join(layer.name for layer in layers[:4]) or "no layers"
    return f"{shown}, …" if len(layers) > 4 else shown


def _misfit(pair: Pair, where: str) -> CompileError | None:
    now, dense = pair.now, pair.dense
    if now is None or dense is None:
        return None
    place = f"{where}: layer '{pair.name}'"
    if now.zeros is not None and now.positions != dense.positions:
        return CompileError(
            f"works at {now.positions:,} positions, not at {dense.positions:,} as in the dense "
            "model",
            place,
            help="pruning keeps positions: give models of one input size, or --shape",
        )
    for what in ("kernels", "inputs", "macs"):
        a, b = getattr(now, what), getattr(dense, what)
        if a > b:
            return CompileError(
                f"has {a:,} {what}, more than the {b:,} of the dense model",
                place,
                help="the pruned and the dense model may be exchanged",
            )
    return None


def _any(pair: Pair) -> LayerOps:
    layer = pair.dense or pair.now
    assert layer is not None
    return layer


def _sums(pairs: Sequence[Pair]) -> Sums:
    now = [p.now for p in pairs if p.now is not None]
    dense = [p.dense for p in pairs if p.dense is not None]
    return Sums(
        dense=sum(layer.macs for layer in dense),
        macs=sum(layer.macs for layer in now),
        effective=sum(layer.effective for layer in now),
        weights=sum(layer.weights for layer in dense),
        nonzero=sum(layer.weights - (layer.zeros or 0) for layer in now),
        known=all(layer.zeros is not None or not layer.weights for layer in now),
    )
