"""Swaps the layers of an existing module for ones of few levels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from cimc.errors import CompileError, raise_all
from cimc.train import layers, quantisers


@dataclass
class Converted:
    """done: what each layer became, by name. kept: why others stay as they are, by name."""

    done: dict[str, str] = field(default_factory=dict)
    kept: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"{name}: {what}" for name, what in self.done.items()]
        return "\n".join(lines + [f"{name}: stays: {why}" for name, why in self.kept.items()])


_KINDS: dict[str, tuple[type, type]] = {
    "binary": (layers.BinaryConv2d, layers.BinaryLinear),
    "ternary": (layers.TernaryConv2d, layers.TernaryLinear),
}
_OTHER = (nn.modules.conv._ConvNd, nn.Bilinear, nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention)
_ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.Hardtanh, nn.LeakyReLU, nn.Sigmoid, nn.Tanh)


def convert(
    model: nn.Module,
    weights: str | int,
    activations: str | int | None = None,
    skip: Sequence[str] = (),
    scale: str | None = None,
) -> Converted:
    """Swap Conv2d and Linear, in place; names, float weights and other state stay.

    weights: "binary", "ternary", or bits, 2 to 8. activations: what modules such as nn.ReLU become:
    "sign", bits 1 to 8, or None, which leaves them. skip: layers that stay: "first", "last" (in
    the order in which the module has them), names or patterns with `*`. scale: "none", "channel" or
    "layer"; without, none for binary and ternary weights and channel for others.

    Raises CompileError for options that mean nothing and for patterns that match no layer; layers
    that can't be converted stay, and the result says why.
    """
    _check(weights, activations, scale)
    found = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear) and not isinstance(module, layers.Levels)
    }
    result = Converted()
    skipped = _skipped(list(found), skip)
    for name, module in found.items():
        why = "it is named in `skip`" if name in skipped else _why_not(module)
        if why:
            result.kept[name] = why
            continue
        made = _layer(module, weights, scale)
        _put(model, name, made)
        result.done[name] = type(made).__name__
    for name, other in model.named_modules():
        if isinstance(other, _OTHER) and not isinstance(other, nn.Conv2d):
            result.kept[name] = f"there is no {type(other).__name__} of few levels"
    if activations is not None:
        _swap_activations(model, activations, result)
    return result


def _check(weights: str | int, activations: str | int | None, scale: str | None) -> None:
    errors = []
    if weights not in _KINDS and not _bits(weights, 2):
        errors.append(f"weights={weights!r}: binary, ternary, or bits 2 to 8")
    if activations not in (None, "sign") and not _bits(activations, 1):
        errors.append(f"activations={activations!r}: sign, bits 1 to 8, or None")
    if scale not in (None, *layers.SCALES):
        errors.append(f"scale={scale!r}: {', '.join(layers.SCALES)}")
    if scale == "none" and weights not in _KINDS:
        errors.append("scale='none': weights of k bits need channel or layer")
    raise_all([CompileError(text, "convert") for text in errors])


def _bits(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= 8


def _skipped(names: list[str], skip: Sequence[str]) -> set[str]:
    found, errors = set[str](), []
    for pattern in skip:
        if pattern in ("first", "last") and pattern not in names:
            chosen = names[:1] if pattern == "first" else names[-1:]
        else:
            chosen = [n for n in names if fnmatchcase(n, pattern)]
        found |= set(chosen)
        if not chosen:
            help = f"there is {', '.join(names)}" if names else "the module has none"
            errors.append(CompileError(f"skip: no layer '{pattern}'", "convert", help=help))
    raise_all(errors)
    return found


def _why_not(module: nn.Module) -> str:
    if isinstance(module, nn.Conv2d) and module.padding_mode != "zeros":
        return f"padding_mode='{module.padding_mode}'"
    kind = type(module)
    if kind not in (nn.Conv2d, nn.Linear):
        return f"{kind.__name__} is a class of its own"
    return ""


def _layer(module: Any, weights: str | int, scale: str | None) -> nn.Module:
    more: dict[str, Any] = {} if scale is None else {"scale": scale}
    if isinstance(weights, str):
        kinds = _KINDS[weights]
    else:
        kinds, more = (layers.QuantConv2d, layers.QuantLinear), {**more, "bits": weights}
    bias = module.bias is not None
    if isinstance(module, nn.Linear):
        made = kinds[1](module.in_features, module.out_features, bias=bias, **more)
    else:
        made = kinds[0](
            module.in_channels, module.out_channels, module.kernel_size, stride=module.stride,
            padding=module.padding, dilation=module.dilation, groups=module.groups, bias=bias,
            **more,
        )  # fmt: skip
    made.to(module.weight.device, module.weight.dtype)
    made.load_state_dict(module.state_dict())
    made.train(module.training)
    with torch.no_grad():
        for new, old in zip(made.parameters(), module.parameters()):
            new.requires_grad_(old.requires_grad)
    found: nn.Module = made
    return found


def _swap_activations(model: nn.Module, activations: str | int, result: Converted) -> None:
    for name, module in list(model.named_modules()):
        if not isinstance(module, _ACTIVATIONS):
            continue
        made: nn.Module
        if activations == "sign":
            made = quantisers.Sign()
        elif isinstance(module, nn.ReLU | nn.ReLU6):
            made = quantisers.QuantReLU(int(activations))
        elif int(activations) > 1:
            made = quantisers.QuantAct(int(activations), signed=True)
        else:
            result.kept[name] = "signed activations have 2 bits at least"
            continue
        _put(model, name, made)
        result.done[name] = type(made).__name__


def _put(model: nn.Module, name: str, module: nn.Module) -> None:
    *path, last = name.split(".")
    setattr(model.get_submodule(".".join(path)), last, module)
