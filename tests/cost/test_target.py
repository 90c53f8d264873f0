"""Target files: what loads, what `--set` changes, and every way to be refused."""

from pathlib import Path

import pytest

from cimc.cost.energy import COMPONENTS
from cimc.cost.target import COSTS, FUNCTIONS, builtin_targets, load_target
from cimc.errors import CompileError

FOLDER = Path(__file__).parents[2] / "targets"
IDEAL = (FOLDER / "ideal.toml").read_text()


@pytest.fixture
def refused(tmp_path, monkeypatch):
    """The message of loading a text as `chip.toml`."""
    monkeypatch.chdir(tmp_path)

    def message(text, overrides=None):
        Path("chip.toml").write_text(text)
        with pytest.raises(CompileError) as error:
            load_target("chip.toml", overrides)
        return str(error.value)

    return message


def test_every_cost_of_the_instruction_table_has_a_component():
    assert set(COMPONENTS) == set(COSTS)


@pytest.mark.parametrize("name", ["ideal", "digital-rram-180nm"])
def test_built_in_targets(name):
    assert name in builtin_targets()
    target = load_target(name)
    assert target == load_target(str(FOLDER / f"{name}.toml"))
    assert target.name == name
    assert (target.rows, target.cols, target.tiles) == (256, 128, None)
    assert (target.functions, target.acc_bits) == (FUNCTIONS, 32)


def test_cited_figures_of_the_180_nm_target():
    target = load_target(str(FOLDER / "digital-rram-180nm.toml"))
    cited = {path for path, figure in target.figures.items() if figure.status == "cited"}
    assert cited == {"energy.set", "energy.reset", "geometry.functions"}
    assert (target.energy["set"], target.energy["reset"]) == (67.0, 681.0)
    assert all("10.1109/VLSIT.2014.6894435" in target.figures[f"energy.{key}"].source
               for key in ("set", "reset"))  # fmt: skip


def test_overrides():
    target = load_target(
        str(FOLDER / "ideal.toml"),
        {"rows": "64", "tiles": "9", "functions": "xor, and", "energy.sense": "0.5",
         "geometry.acc_bits": "24"},
    )  # fmt: skip
    assert (target.rows, target.tiles, target.acc_bits) == (64, 9, 24)
    assert target.functions == ("and", "xor")
    assert target.energy["sense"] == 0.5
    figure = target.figures["energy.sense"]
    assert (figure.status, figure.source, figure.unit) == ("assumed", "--set", "pJ")


def test_an_inline_table_is_a_figure_too(tmp_path):
    body, rest = IDEAL.split("[energy.word_line]")
    rest = rest[rest.index("[energy.sense]") :]
    inline = 'word_line = { value = 2, unit = "pJ", source = "s", status = "measured" }\n'
    path = tmp_path / "chip.toml"
    path.write_text(f"{body}[energy]\n{inline}\n{rest}")
    assert load_target(str(path)).energy["word_line"] == 2.0


def line_of(text, part):
    return next(n for n, line in enumerate(text.splitlines(), 1) if part in line)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("value = 256", "value = 0", "figure 'rows' of [geometry] is 0, not a whole number from 1"),
        ("value = 128", "value = 1.5", "figure 'cols' of [geometry] is 1.5, not a whole number"),
        ('"as-needed"', "0", 'from 1 to 1048576 or "as-needed"'),
        ('"as-needed"', "true", 'from 1 to 1048576 or "as-needed"'),
        ('["and", "nand", "or", "xor"]', "[]", "is not a list of at least one of and, nand"),
        ('"nand"', '"nor"', "has 'nor', not one of and, nand, or, xor"),
        ("value = 1.0", "value = -1.0", "figure 'word_line' of [energy] is -1.0, not a number of"),
        ("value = 1.0", "value = nan", "is nan, not a number of at least 0"),
        ("value = 1.0", "value = inf", "is inf, not a number of at least 0"),
        ("value = 1.0", "", "is None, not a number of at least 0"),
        ('"pJ"', '"fJ"', 'has the unit "fJ", not "pJ"'),
        ('source = "geometry for tests"', "", "figure 'rows' of [geometry] has no source"),
        ('"assumed"', '"guessed"', 'has the status "guessed", not one of measured, cited, assumed'),
        ('status = "assumed"', 'status = "assumed"\nmin = 1', "has an unknown entry 'min'"),
        ("[energy.sense]", "[energy.sensing]", "unknown key 'sensing' in [energy]"),
        ("[energy.sense]", "[cost.sense]", "unknown table [cost]"),
        ("[energy.sense]", "[energy.x]", "figure 'sense' of [energy] is missing"),
        ('name = "ideal"', "", '[target] needs name = "…"'),
    ],
)
def test_problems_of_a_file(refused, old, new, message):
    text = refused(IDEAL.replace(old, new, 1))
    assert message in text
    assert text.startswith("chip.toml:")


def test_problems_have_a_line_and_come_together(refused):
    broken = IDEAL.replace("value = 256", "value = -2").replace("[energy.latch]", "[energy.lach]")
    lines = [line for line in refused(broken).splitlines() if line.startswith("chip.toml")]
    assert [line.split(": error: ")[0] for line in lines] == [
        f"chip.toml:{line_of(broken, '[energy.lach]')}:1",
        f"chip.toml:{line_of(broken, '[geometry.rows]')}:1",
        f"chip.toml:{line_of(broken, '[energy.')}:1",
    ]


def test_not_toml(refused):
    assert refused("[target\n").startswith("chip.toml:1:8: error: not TOML: ")
    assert refused("a = 1\na = 2").startswith("chip.toml:")
    assert "[target] needs name" in refused("")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("row", "1", "--set row=1: error: a target has no 'row'"),
        ("energy.colour", "1", "a target has no 'energy.colour'"),
        ("target.name", "x", "a target has no 'target.name'"),
        ("rows", "many", "--set rows=many: error: is many, not a whole number"),
        ("rows", "0", "is 0, not a whole number"),
        ("energy.sense", "-1", "is -1, not a number of at least 0"),
        ("energy.sense", "nan", "is nan, not a number"),
        ("functions", "", "has '', not one of"),
    ],
)
def test_problems_of_overrides(refused, key, value, message):
    assert message in refused(IDEAL, {key: value})


def test_files_that_cannot_be_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("binary.toml").write_bytes(b"\xff\xfe\x00")
    for name, message in (
        ("none.toml", "none.toml: error: can't read it"),
        ("binary.toml", "binary.toml: error: not a text file in UTF-8"),
        ("no/folder", "no/folder: error: can't read it"),
    ):
        with pytest.raises(CompileError) as error:
            load_target(name)
        assert message in str(error.value)


def test_an_unknown_name_lists_the_built_in_targets():
    with pytest.raises(CompileError, match="there is no target 'idea'") as error:
        load_target("idea")
    assert "digital-rram-180nm, ideal" in str(error.value)
