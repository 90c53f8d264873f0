"""What the layers behind lose with a channel: similarity of channels, and their effect.

A channel is like another where its values follow from it on the calibration data, up to a factor
(negative for complements) and an offset. What several others say about it together counts as
well: the effect of a removal is the error that is left at the layers behind when these use the
channels that stay as well as they can (optimal brain surgeon: Hassibi and Stork, 1993).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cimc.prune.fit import Floats

SIMILAR = 0.5
"""Least |correlation| of two channels that count as similar."""
_DAMPING = 1e-3  # of the mean variance


@dataclass(frozen=True)
class Inputs:
    """What a layer sums over, channel by channel.

    numbers: the channels, [C]. cov: covariance of their values, taps taken together, [C, C]. fine:
    covariance of the columns, those of a channel side by side, [C * T, C * T]; None where that is
    too large. weights: [C, T, M] of kernels, each divided by the deviation of its result; T: taps,
    or columns of a channel. outs: channel of each kernel, [M].
    """

    numbers: npt.NDArray[np.int64]
    cov: Floats
    fine: Floats | None
    weights: npt.NDArray[np.float32]
    outs: npt.NDArray[np.int64]


class Effects:
    """The effects of removing one more channel of a layer's inputs, the others optimally used.

    With weights w and covariance H of the columns, removing columns g costs tr(w_g' (inv(H)_gg)^-1
    w_g), and the best weights for the others are w - inv(H)_:g (inv(H)_gg)^-1 w_g. Of the weights
    only w w' is needed.
    """

    def __init__(self, inputs: Inputs, gone: Iterable[int]) -> None:
        chosen = set(gone)
        self._taps = 1 if inputs.fine is None else inputs.weights.shape[1]
        cov = inputs.cov if inputs.fine is None else inputs.fine
        stays = ~np.isin(inputs.outs, list(chosen))
        # The error counts on the mean of the kernels that stay.
        rows = inputs.weights[:, :, stays].reshape(len(cov), -1)
        self._energy = (rows @ rows.T).astype(np.float64) / max(int(stays.sum()), 1)
        level = _DAMPING * float(np.trace(cov)) / len(cov) + 1e-12
        self._inverse = np.linalg.inv(cov + level * np.eye(len(cov)))
        self._at = {int(c): i for i, c in enumerate(inputs.numbers)}
        for channel in sorted(chosen & set(self._at)):
            self.remove(channel)

    def __contains__(self, channel: int) -> bool:
        return channel in self._at

    def of(self, channel: int) -> float:
        """The share of the results' variance, about, that goes with a channel."""
        if channel not in self._at:
            return 0.0
        g = self._columns(channel)
        return float(np.trace(np.linalg.solve(self._inverse[g, g], self._energy[g, g])))

    def remove(self, channel: int) -> None:
        """Take a channel out; the others take over what they can."""
        g = self._columns(channel)
        inverse, energy = self._inverse, self._energy
        share = np.linalg.solve(inverse[g, g], inverse[g]).T
        across = share @ energy[g]
        energy += share @ energy[g, g] @ share.T - across - across.T
        inverse -= share @ inverse[g]
        for matrix in (inverse, energy):
            matrix[g] = matrix[:, g] = 0.0
        inverse[g, g] = np.eye(self._taps)
        del self._at[channel]

    def _columns(self, channel: int) -> slice:
        first = self._at[channel] * self._taps
        return slice(first, first + self._taps)


def similarity(inputs: Inputs) -> Any:
    """The graph of similar channels (networkx): an edge where |correlation| is at least 0.5, with
    it as weight. Channels that are constant are similar to none."""
    import networkx as nx  # takes long to load

    spread = np.sqrt(np.maximum(np.diag(inputs.cov), 0.0))
    both = np.outer(spread, spread)
    rho = np.divide(inputs.cov, both, out=np.zeros_like(both), where=both > 1e-12)
    graph = nx.Graph()
    graph.add_nodes_from(inputs.numbers.tolist())
    for i, j in zip(*np.nonzero(np.triu(np.abs(rho) >= SIMILAR, 1))):
        graph.add_edge(int(inputs.numbers[i]), int(inputs.numbers[j]), weight=abs(float(rho[i, j])))
    return graph


def representatives(
    inputs: Inputs, similar: Any, gone: Iterable[int]
) -> dict[int, tuple[int, float]]:
    """For each channel that goes, the most similar one that stays and the factor s of the best
    s·r + t; channels without a similar one are left out. similar: `similarity(inputs)`."""
    chosen = set(gone)
    at = {int(c): i for i, c in enumerate(inputs.numbers)}
    found: dict[int, tuple[int, float]] = {}
    for channel in chosen & set(at):
        near = [(d["weight"], -r, r) for r, d in similar[channel].items() if r not in chosen]
        if not near:
            continue
        r = max(near)[2]
        i, j = at[channel], at[r]
        found[channel] = (r, float(inputs.cov[i, j] / inputs.cov[j, j]))
    return found
