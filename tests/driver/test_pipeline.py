"""The pipeline's text: names, options, nesting, and every mistake in it."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from cimc.driver.base import Pass, PassContext
from cimc.driver.pipeline import parse_pipeline, with_option
from cimc.driver.registry import Registry
from cimc.errors import CompileError
from cimc.ir.graph import Graph


@dataclass(frozen=True)
class Options(Pass):
    """Changes nothing; has an option of each type."""

    name = "with-options"
    summary = "do nothing, with options"
    count: int = 1
    share: float = 0.5
    deep: bool = False
    mode: str = "a"
    limit: int | None = None

    def __post_init__(self) -> None:
        if self.count < 0:
            raise ValueError("count must not be negative")

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        return False


@dataclass(frozen=True)
class Plain(Pass):
    """Changes nothing."""

    name = "plain"
    summary = "do nothing"

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        return False


@pytest.fixture
def registry() -> Registry:
    found = Registry()
    found.add([Options, Plain], "here")
    found.pipelines = {"both": "plain,with-options{count=2}", "more": "both, plain",
                       "loop": "plain,ring", "ring": "loop"}  # fmt: skip
    return found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("  ", []),
        ("plain", [Plain()]),
        (" plain , plain", [Plain(), Plain()]),
        ("with-options{}", [Options()]),
        ("with-options{count=3}", [Options(count=3)]),
        (
            "with-options{ count = 3, share=2e-1 ,deep=true,mode=b,limit=7}",
            [Options(3, 0.2, True, "b", 7)],
        ),
        ("with-options{count=3},plain", [Options(count=3), Plain()]),
        ("both", [Plain(), Options(count=2)]),
        ("both{}", [Plain(), Options(count=2)]),
        ("both{count=3}", [Plain(), Options(count=3)]),
        ("more{mode=b, deep=true}", [Plain(), Options(2, deep=True, mode="b"), Plain()]),
        ("more,plain", [Plain(), Options(count=2), Plain(), Plain()]),
    ],
)
def test_parse(registry: Registry, text: str, expected: list[Pass]) -> None:
    assert parse_pipeline(text, registry) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ("both", "both{count=7}"),
        (" plain, more ,with-options", "plain,more{count=7},with-options{count=7}"),
        ("with-options{count=3,mode=b}", "with-options{mode=b,count=7}"),
        ("both{mode=b},plain{}", "both{mode=b,count=7},plain"),
    ],
)
def test_with_option(registry: Registry, text: str, expected: str) -> None:
    assert with_option(text, registry, "count", "7") == expected


@pytest.mark.parametrize(
    ("text", "message", "help"),
    [
        ("plan", "no pass or pipeline 'plan'", "did you mean 'plain'?"),
        ("quantum", "no pass or pipeline 'quantum'", "`cimc passes` lists them"),
        ("plain,", "expected a pass or pipeline at 'plain,'", "commas"),
        (",plain", "expected a pass or pipeline at ',plain'", "commas"),
        ("plain plain", "expected a pass or pipeline at 'plain plain'", "commas"),
        ("plain{", "expected a pass or pipeline", "braces"),
        ("with-options{count=1", "expected a pass or pipeline", "braces"),
        ("plain{x=1}", "pass 'plain' has no option 'x'", "it has: none"),
        ("with-options{x=1}", "has no option 'x'", "it has: count, share, deep, mode, limit"),
        ("with-options{count}", "option 'count'", None),
        ("with-options{count=two}", "with-options{count} must be of type int, not 'two'", None),
        ("with-options{share=x}", "with-options{share} must be of type float, not 'x'", None),
        ("with-options{deep=1}", "with-options{deep} must be true or false, not '1'", None),
        ("with-options{count=-1}", "pass 'with-options': count must not be negative", None),
        (
            "both{x=1}",
            "no pass of pipeline 'both' has an option 'x'",
            "they have: count, share, deep, mode, limit",
        ),
        ("both{count=two}", "with-options{count} must be of type int, not 'two'", None),
        ("both{count=-1}", "pass 'with-options': count must not be negative", None),
        ("loop", "pipeline 'loop' contains itself", None),
    ],
)
def test_mistakes(registry: Registry, text: str, message: str, help: str | None) -> None:
    with pytest.raises(CompileError) as caught:
        parse_pipeline(text, registry)
    assert message in caught.value.message
    assert str(caught.value.where).startswith("-p ")
    assert help is None or help in (caught.value.help or "")
