"""The suite itself: it mirrors the rooms, each room is tested in seconds, and any environment can import all of it."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PACKAGE = TESTS.parent / "spaceclip_plugin"
ROOMS = sorted(path.name for path in PACKAGE.iterdir() if path.is_dir() and (path / "__init__.py").exists())
# Folders of tests that are no rooms of the core.
BESIDE = {
    "adapters",
    "attacks",
    "benchmarks",
    "examples",
    "ground",
    "guard",
    "records",
    "regression",
    "stand_ins",
    "worlds",
}
MODULES = sorted(path for path in TESTS.rglob("test_*.py"))


def is_slow(node: ast.AST) -> bool:
    return any("mark.slow" in ast.unparse(mark) for mark in getattr(node, "decorator_list", []))


def functions_of(body: list[ast.stmt]) -> list[ast.FunctionDef]:
    """Tests of a module or class that are not slow, those in its classes among them."""
    found = []
    for node in body:
        if isinstance(node, ast.ClassDef) and not is_slow(node):
            found += functions_of(node.body)
        elif isinstance(node, ast.FunctionDef) and node.name.startswith("test") and not is_slow(node):
            found.append(node)
    return found


def quick_tests(path: Path) -> list[ast.FunctionDef]:
    tree = ast.parse(path.read_text())
    marks = [
        node for node in tree.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytestmark"
    ]
    return [] if any("mark.slow" in ast.unparse(node) for node in marks) else functions_of(tree.body)


def test_no_two_modules_have_one_name() -> None:
    """Tests and what they import are found by name alone: the second of a name would be the first, or fail."""
    names = Counter(path.stem for path in TESTS.rglob("*.py") if path.stem != "conftest")
    assert [name for name, count in names.items() if count > 1] == []


def test_folders_are_those_of_the_rooms() -> None:
    folders = {path.name for path in TESTS.iterdir() if path.is_dir() and any(path.rglob("*.py"))}
    assert folders == {*ROOMS, *BESIDE}


@pytest.mark.parametrize("room", [*ROOMS, "adapters", "worlds", "ground", "guard"])
def test_every_room_is_tested_in_seconds(room: str) -> None:
    """`make test` leaves the slow tests out, and no room."""
    assert sum(len(quick_tests(path)) for path in (TESTS / room).rglob("test_*.py")) >= 5


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_a_test_needs_no_other_test(path: Path) -> None:
    """What several modules share lies in a module of its own: a folder of tests runs alone."""
    names = {path.stem for path in MODULES}
    tree = ast.parse(path.read_text())
    assert not {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)} & names
    assert len(path.read_text().splitlines()) <= 400
