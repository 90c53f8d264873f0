"""Reads `-p cleanup,allocate-tiles{strategy=fast}` into passes with options.

Options of a pipeline go to those of its passes that have them: `int8{bits=4}`.
"""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from cimc.driver.base import Pass
from cimc.driver.registry import Registry
from cimc.errors import CompileError

_ITEM = re.compile(r"\s*([A-Za-z][\w-]*)\s*(?:\{([^{}]*)\})?\s*(,|$)")


def parse_pipeline(spec: str, registry: Registry, unknown: list[str] | None = None) -> list[Pass]:
    """The passes of a comma list of passes and pipelines, pipelines expanded.

    unknown: takes the names that are not known, whose passes are left out then.
    Raises CompileError: unknown names (with the nearest known one), unknown options, values
    of the wrong type, pipelines that contain themselves.
    """
    return list(_expand(spec, registry, (), unknown))


def _expand(
    spec: str, registry: Registry, inside: tuple[str, ...], unknown: list[str] | None
) -> Iterator[Pass]:
    for name, options in _items(spec):
        if name in inside:
            raise CompileError(f"pipeline '{name}' contains itself", f"-p {spec}")
        if name in registry.pipelines:
            held = _expand(registry.pipelines[name], registry, (*inside, name), unknown)
            yield from _given(list(held), options or "", name, spec)
            continue
        if name not in registry.passes and unknown is not None:
            unknown.append(name)
            continue
        if name not in registry.passes:
            raise CompileError(
                f"no pass or pipeline '{name}'", f"-p {spec}", help=_suggest(name, registry)
            )
        yield _make(registry.passes[name], options or "", spec)


def _items(spec: str) -> Iterator[tuple[str, str | None]]:
    at = 0
    while spec.strip() and at < len(spec):
        match = _ITEM.match(spec, at)
        if match is None or (match[3] == "," and match.end() == len(spec)):
            raise CompileError(
                f"expected a pass or pipeline at '{spec[at:]}'",
                f"-p {spec}",
                help="write names separated by commas, options in braces: name{option=value}",
            )
        yield match[1], match[2]
        at = match.end()


def _suggest(name: str, registry: Registry) -> str:
    import difflib

    known = [*registry.passes, *registry.pipelines]
    close = difflib.get_close_matches(name, known, 1)
    return f"did you mean '{close[0]}'?" if close else "`cimc passes` lists them"


def _given(passes: list[Pass], text: str, name: str, spec: str) -> list[Pass]:
    """The passes of a pipeline with the options that it was given: each goes to every pass that
    has it."""
    for part in filter(None, (p.strip() for p in text.split(","))):
        key = part.partition("=")[0].strip()
        takers = [i for i, step in enumerate(passes) if key in option_names(step)]
        if not takers:
            known = ", ".join(dict.fromkeys(o for p in passes for o in option_names(p)))
            raise CompileError(
                f"no pass of pipeline '{name}' has an option '{key}'",
                f"-p {spec}",
                help=f"they have: {known or 'none'}",
            )
        for i in takers:
            before = vars(passes[i])
            passes[i] = _make(type(passes[i]), part, spec, before)
    return passes


def option_names(step: Pass | type[Pass]) -> list[str]:
    """The options of a pass."""
    return [f.name for f in dataclasses.fields(step)]


def _make(
    cls: type[Pass], text: str, spec: str, before: Mapping[str, Any] = MappingProxyType({})
) -> Pass:
    hints = typing.get_type_hints(cls)
    known = {f.name: hints[f.name] for f in dataclasses.fields(cls)}
    options: dict[str, Any] = dict(before)
    for part in filter(None, (p.strip() for p in text.split(","))):
        key, equals, value = (s.strip() for s in part.partition("="))
        if not equals or key not in known:
            names = ", ".join(known) or "none"
            raise CompileError(
                f"pass '{cls.name}' has no option '{key}'", f"-p {spec}", help=f"it has: {names}"
            )
        options[key] = _value(value, known[key], f"{cls.name}{{{key}}}", spec)
    try:
        return cls(**options)
    except (TypeError, ValueError) as error:
        raise CompileError(f"pass '{cls.name}': {error}", f"-p {spec}") from None


def _value(text: str, kind: Any, what: str, spec: str) -> Any:
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        (kind,) = (k for k in typing.get_args(kind) if k is not type(None))
    if kind is bool:
        if text in ("true", "false"):
            return text == "true"
        raise CompileError(f"{what} must be true or false, not '{text}'", f"-p {spec}")
    try:
        return kind(text)
    except ValueError:
        raise CompileError(
            f"{what} must be of type {kind.__name__}, not '{text}'", f"-p {spec}"
        ) from None


def with_option(spec: str, registry: Registry, key: str, value: str) -> str:
    """The comma list with an option set, where a pass has it: `int8` as `int8{key=value}`."""
    parts = []
    for name, options in _items(spec):
        held = [o.strip() for o in (options or "").split(",") if o.strip()]
        if any(key in option_names(step) for step in parse_pipeline(name, registry)):
            held = [*(o for o in held if not o.startswith(f"{key}=")), f"{key}={value}"]
        parts.append(f"{name}{{{','.join(held)}}}" if held else name)
    return ",".join(parts)
