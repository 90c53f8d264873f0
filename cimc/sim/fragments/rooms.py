"""Where the values of a fragment lie while it runs: arrays with one row for each sample."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cimc.sim.fragments.graph import Array


@dataclass(frozen=True)
class Rooms:
    """Arrays [samples, *shape] by root. Those in `inner` hold the samples of one chunk, the
    others all samples."""

    outer: Mapping[str, Array]
    inner: Mapping[str, Array]

    def array(self, root: str) -> Array:
        return self.inner[root] if root in self.inner else self.outer[root]

    def local(self, root: str) -> bool:
        """Whether sample 0 is the first of the chunk."""
        return root in self.inner

    def at(self, root: str) -> tuple[int, int]:
        """Address of an array, and the bytes by which it moves on with each sample before the
        chunk."""
        array = self.array(root)
        return array.ctypes.data, 0 if self.local(root) else array.strides[0]
