"""The rows of the version matrix are those that pyproject.toml promises."""

from __future__ import annotations

import re
from pathlib import Path

import version_matrix as matrix
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]


class TestRows:
    def test_the_lowest_row_is_what_pyproject_promises(self) -> None:
        project = (ROOT / "pyproject.toml").read_text()
        [dependencies] = re.findall(r"^dependencies = \[(.*?)^\]", project, re.DOTALL | re.MULTILINE)
        bounds = dict(re.findall(r'"([\w-]+)>=([\d.]+)"', dependencies))
        lowest = matrix.ROWS[0]
        pins = dict(pin.split("==") for pin in lowest.pins)
        assert bounds.keys() == pins.keys() - {"peft"}
        for name, bound in bounds.items():
            promised, tested = Version(bound).release, Version(pins[name]).release
            assert tested[: len(promised)] == promised, f"{name}: {bound} promised, {pins[name]} tested"
        assert f'requires-python = ">={lowest.python}"' in project

    def test_the_test_tools_are_those_of_pyproject(self) -> None:
        [dev] = re.findall(r"^dev = \[(.*?)^\]", (ROOT / "pyproject.toml").read_text(), re.DOTALL | re.MULTILINE)
        tools = [tool for tool in re.findall(r'"([^"]+)"', dev) if not tool.startswith(("ruff", "mypy", "mcap"))]
        assert list(matrix.TEST_TOOLS) == tools

    def test_every_row_runs_the_whole_suite(self) -> None:
        assert {row.tests for row in matrix.ROWS} == {"tests"}
        assert {row.name for row in matrix.ROWS} >= {"lowest", "newest", "lerobot-0.4", "lerobot-0.6"}

    def test_names_and_order(self) -> None:
        rows = [row for row in matrix.ROWS if not row.name.startswith("lerobot")]
        names = [row.name for row in rows]
        assert (names[0], names[-1]) == ("lowest", "newest")
        assert len({row.name for row in matrix.ROWS}) == len(matrix.ROWS)
        assert rows[-1].pins == ()
        assert rows[-1].strict
        series = [Version(dict(pin.split("==") for pin in row.pins)["transformers"]) for row in rows[1:-1]]
        assert [f"transformers-{version.major}.{version.minor}" for version in series] == names[1:-1]
        assert series == sorted(series)
