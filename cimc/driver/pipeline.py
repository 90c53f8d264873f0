"""Reads `-p cleanup,allocate-tiles{strategy=fast}` into passes with options."""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Iterator, Sequence
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
            if options is not None:
                raise CompileError(f"pipeline '{name}' has no options of its own", f"-p {spec}")
            yield from _expand(registry.pipelines[name], registry, (*inside, name), unknown)
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


def _make(cls: type[Pass], text: str, spec: str) -> Pass:
    hints = typing.get_type_hints(cls)
    known = {f.name: hints[f.name] for f in dataclasses.fields(cls)}
    options: dict[str, Any] = {}
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


def spec_of(passes: Sequence[Pass]) -> str:
    """The comma list that gives these passes: options where they are not the default."""
    return ",".join(_stated(step) for step in passes)


def _stated(step: Pass) -> str:
    given = []
    for f in dataclasses.fields(step):
        value = getattr(step, f.name)
        if value != f.default:
            text = str(value).lower() if isinstance(value, bool) else str(value)
            given.append(f"{f.name}={text}")
    return f"{step.name}{{{','.join(given)}}}" if given else step.name
