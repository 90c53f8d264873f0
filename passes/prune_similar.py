"""Removes kernels that are similar to others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from cimc.driver import Pass, PassContext
from cimc.driver.calibrated import data_for
from cimc.driver.patterns import matched
from cimc.errors import CompileError
from cimc.ir.graph import Graph, layer_name
from cimc.prune.budget import Budget, Report, prune_to_budget
from cimc.prune.dead import remove_dead_channels
from cimc.prune.known import Known
from cimc.prune.notes import operations, saved
from cimc.prune.published import (
    Choice,
    Judged,
    alphas,
    fraction,
    is_depthwise,
    kernel_matrix,
    removable,
    set_kernels,
    within_groups,
)
from cimc.prune.spaces import Kernels, Spaces
from cimc.similarity import criteria

CRITERIA = ("published", "published-binary", "published-float", "budget")
_PUBLISHED = {"published-binary": (criteria.BINARY_B, criteria.BINARY_C),
              "published-float": (criteria.FLOAT_B, criteria.FLOAT_C)}  # fmt: skip
_DROP = "0.005"  # the budget without any given


@dataclass(frozen=True)
class _Layers:
    """The layers that a criterion judges, with their kernels as rows, and why it judges no others,
    by name."""

    found: list[tuple[Kernels, Any]]
    why: dict[str, str]


def _chosen(spaces: Spaces, known: Known, pattern: str, skip: str) -> _Layers:
    names = [layer_name(k.node) for k in spaces.kernels]
    only = _matched(names, pattern, "layers") if pattern else None
    skipped = _matched(names, skip, "skip")
    found, why = list[tuple[Kernels, Any]](), dict[str, str]()
    for layer, name in zip(spaces.kernels, names):
        if name in skipped or (only is not None and name not in only):
            continue
        if only is None and not layer.layer.spatial:
            continue
        rows = kernel_matrix(layer, known)
        if is_depthwise(layer):
            why[name] = "its kernels see different inputs; they follow these"
        elif rows is None:
            why[name] = "its weights are not constant"
        elif len(rows) // layer.groups < 2:
            why[name] = "it has one kernel"
        else:
            found.append((layer, rows))
    return _Layers(found, why)


def _matched(names: Sequence[str], patterns: str, option: str) -> set[str]:
    """The layers that patterns choose; CompileError for those that choose none."""
    where = f"prune-similar{{{option}}}"
    return {names[i] for i in matched(names, patterns, where, listing="there is")}


def _by_reason(why: dict[str, str]) -> dict[str, list[str]]:
    """Names by the reason that they share."""
    found: dict[str, list[str]] = {}
    for name, reason in why.items():
        found.setdefault(reason, []).append(name)
    return found


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 6} more" if len(names) > 6 else ""
    return ", ".join(names[:6]) + more


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


@dataclass(frozen=True)
class PruneSimilar(Pass):
    """Rules (kernels of one layer judged from one snapshot; a channel: all that goes with a
    kernel, see remove-dead-channels):
    1. criterion=published-binary: Hamming distances d of the signs; T = mean(d) - b·variance(d); a
       kernel nearer than T to more than c of the others ⇒ nothing
    2. criterion=published-float: the same with L2 distances, max(mean - b·standard deviation, 0)
    3. criterion=published: 1 where all weights of a layer are ±α, 2 elsewhere
    4. mode=literal: nothing is removed; what the criterion takes is overwritten as in the published
       scripts, float kernels by zeros; kernels of ±α by -α, which is what their 0 computes
    5. criterion=budget: channels whose loss the layers behind can best make up for, found on
       calibration data, round by round until remove_macs (a share of the operations of
       convolutions; of all layers where there are none) or max_drop (a share of labelled samples
       that may be classified wrongly in addition) is used up ⇒ nothing, and the layers behind
       fitted to what they made before: float weights and biases by least squares; ±α weights by
       changes of sign, with a gain and an offset in the normalisation or threshold behind
    Options: layers and skip, names or patterns with `*`, joined by `+` or `|`; without, all
    convolutions but depthwise ones, which follow their inputs. b and c, as 0.15 or 15/100; without,
    the published 0.146 and 0.15, for floats 1 and 0.1. remove_macs or max_drop (0.005 without
    either), samples at most, data (the record of the calibration data) for rule 5. A kernel stays,
    and the pass says why, where its channel is locked, where other layers add to it and keep
    theirs, or where it is the last.
    """

    name = "prune-similar"
    summary = "remove kernels that are similar to others of their layer"
    kind = "approximate"
    criterion: str = "published"
    mode: str = "intent"
    b: str = ""
    c: str = ""
    layers: str = ""
    skip: str = ""
    remove_macs: str = ""
    max_drop: str = ""
    samples: int = 1000
    data: str = ""

    def __post_init__(self) -> None:
        if self.criterion not in CRITERIA:
            raise ValueError(f"criterion must be one of {', '.join(CRITERIA)}")
        if self.mode not in criteria.MODES:
            raise ValueError(f"mode must be one of {', '.join(criteria.MODES)}")
        for name in ("b", "c", "remove_macs", "max_drop"):
            if getattr(self, name):
                fraction(
                    getattr(self, name), name, Fraction(0), None if name == "b" else Fraction(1)
                )
        if self.samples < 1:
            raise ValueError("samples must be at least 1")
        own = self.criterion == "budget"
        if own and self.remove_macs and self.max_drop:
            raise ValueError(
                "criterion=budget takes remove_macs, the share of the operations to remove, or "
                "max_drop, the share of the samples that may be lost; not both"
            )
        used = [n for n in ("remove_macs", "max_drop") if getattr(self, n)]
        if own:
            used = [n for n in ("b", "c") if getattr(self, n)] + ["mode"] * (self.mode != "intent")
        if used:
            what = "no option of criterion=budget" if own else "an option of criterion=budget"
            raise ValueError(f"{used[0]} is {what}")

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        dense = operations(graph)
        changed = self._prune(graph, ctx)
        now = operations(graph) if changed else None
        if now is not None and dense is not None:
            ctx.notes += [f"{self.name}: {line}" for line in saved(now, dense)]
        return changed

    def _prune(self, graph: Graph, ctx: PassContext) -> bool:
        if self.criterion == "budget":
            return self._budget(graph, ctx)
        spaces, known = Spaces(graph), Known(graph)
        layers = _chosen(spaces, known, self.layers, self.skip)
        judged = [self._judge(layer, rows) for layer, rows in layers.found]
        for why, names in _by_reason(layers.why).items():
            ctx.notes.append(f"{self.name}: not judged: {_some(names)}: {why}")
        if self.mode == "literal":
            return self._literal(graph, known, layers, judged, ctx)
        choice = removable(spaces, judged)
        changed = False
        for layer, mask in choice.gone:
            if not mask.any():
                continue
            if set_kernels(graph, layer, mask, known):
                changed = True
            else:
                self._say_stored(layer, ctx)
        self._notes(judged, choice, ctx)
        left = remove_dead_channels(graph).locked if changed else {}
        for why, names in _by_reason(left).items():
            ctx.notes.append(f"{self.name}: kernels of zeros stay in {_some(names)}: {why}")
        return changed

    def _budget(self, graph: Graph, ctx: PassContext) -> bool:
        """Rule 5."""
        data = data_for(ctx, self.data, self.name, "criterion=budget")
        samples, labels = data.labelled(graph, self.samples)
        budget = Budget(max_drop=float(Fraction(self.max_drop or _DROP)))
        if self.remove_macs:
            budget = Budget(remove_macs=float(Fraction(self.remove_macs)))
        elif labels is None:
            raise CompileError(
                "max_drop is measured on labels, and there are none", data.name,
                help="add an array `labels` with the class of each sample, or give remove_macs",
            )  # fmt: skip
        allowed = self._allowed(graph) if self.layers or self.skip else None
        report = prune_to_budget(graph, samples, budget, labels, allowed, ctx.progress)
        self._budget_notes(report, ctx)
        return report.channels > 0

    def _allowed(self, graph: Graph) -> set[int]:
        """Channels that are made by the layers chosen alone, but for depthwise ones."""
        spaces = Spaces(graph)
        chosen = {
            layer.node for layer, _ in _chosen(spaces, Known(graph), self.layers, self.skip).found
        }
        makers = [[spaces.kernels[at] for at, _ in own] for own in spaces.makers()]
        return {
            channel
            for channel, own in enumerate(makers)
            if own and all(k.node in chosen or is_depthwise(k) for k in own)
        }

    def _budget_notes(self, report: Report, ctx: PassContext) -> None:
        ctx.notes.append(
            f"{self.name}: budget: {_count(report.channels, 'channel')} and {report.removed:.1%} "
            f"of the operations gone, after trials on {_count(report.used, 'sample')}; "
            "layers behind fitted to their former results"
        )
        wanted = Fraction(self.remove_macs) if self.remove_macs else Fraction(0)
        if report.removed < wanted:
            ctx.notes.append(
                f"{self.name}: {float(wanted):.1%} can't be removed: every layer keeps a channel, "
                "and some channels are locked or left out"
            )
        if report.before is not None and report.after is not None:
            ctx.notes.append(
                f"{self.name}: top-1 of the calibration samples: {report.before:.2%} before, "
                f"{report.after:.2%} after, each half by layers fitted to the other half"
            )
        for why, names in _by_reason(report.left).items():
            ctx.notes.append(f"{self.name}: not fitted: {_some(names)}: {why}")

    def _judge(self, layer: Kernels, rows: Any) -> Judged:
        which = self.criterion
        if which == "published":
            which = "published-binary" if alphas(rows) is not None else "published-float"
        b, c = _PUBLISHED[which]
        b, c = Fraction(self.b or b), Fraction(self.c or c)

        def criterion(part: Any) -> criteria.Decision:
            if which == "published-binary":
                return criteria.published_binary(part, b, c, self.mode)
            return criteria.published_float(part, b, c)

        return Judged(layer, within_groups(layer, rows, criterion))

    def _literal(
        self,
        graph: Graph,
        known: Known,
        layers: _Layers,
        judged: Sequence[Judged],
        ctx: PassContext,
    ) -> bool:
        """Rule 4."""
        changed = False
        for (layer, rows), one in zip(layers.found, judged):
            scale = alphas(rows)
            values, mask = None, one.decision.pruned
            if scale is not None:
                low = -np.broadcast_to(np.where(scale > 0, scale, 1)[:, None], rows.shape)
                values = np.where((rows > 0) & ~mask[:, None], rows, low)
                mask = (values != rows).any(axis=1)
            if set_kernels(graph, layer, mask, known, values):
                changed |= bool(mask.any())
            else:
                self._say_stored(layer, ctx)
        self._notes(judged, None, ctx)
        return changed

    def _say_stored(self, layer: Kernels, ctx: PassContext) -> None:
        name = layer_name(layer.node)
        ctx.notes.append(f"{self.name}: '{name}' stays: its weights are stored in another form")

    def _notes(self, judged: Sequence[Judged], choice: Choice | None, ctx: PassContext) -> None:
        """What went, and what the criterion takes but stays."""
        total = sum(len(one.decision.pruned) for one in judged)
        taken = sum(int(one.decision.pruned.sum()) for one in judged)
        what = "overwritten" if choice is None else "similar"
        parts = [
            f"{one.name} {int(one.decision.pruned.sum())} of {len(one.decision.pruned)}"
            for one in judged
            if one.decision.pruned.any()
        ]
        listed = f": {', '.join(parts[:12])}" if parts else ""
        more = f" and {len(parts) - 12} more layers" if len(parts) > 12 else ""
        ctx.notes.append(
            f"{self.name}: {self.criterion}, {self.mode}: {taken} of {_count(total, 'kernel')} "
            f"{what}{listed}{more}"
        )
        if choice is None:
            return
        for name, count in choice.spared.items():
            kept = _count(count, "kernel")
            ctx.notes.append(
                f"{self.name}: {kept} of '{name}' stay{'s' if count == 1 else ''}, so that one is "
                "left and groups stay alike"
            )
        reasons = _by_reason({name: why for name, (_, why) in choice.locked.items()})
        for why, names in reasons.items():
            count = sum(choice.locked[name][0] for name in names)
            kept = _count(count, "kernel")
            ctx.notes.append(f"{self.name}: {kept} can't be removed, of {_some(names)}: {why}")
