"""The house: which room may import which, on every path through it, lazy imports counted."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from importlib.metadata import metadata, packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {
    "spaceclip_plugin": ROOT / "spaceclip_plugin",
    "spaceclip_adapters": ROOT / "adapters" / "spaceclip_adapters",
    "spaceclip_worlds": ROOT / "examples" / "spaceclip_worlds",
}
# From the ground up: a room imports those before it.
FLOORS = [
    "ground", "hub", "depth", "steady", "towers", "head", "guard", "data", "attach", "graft", "evaluation",
    "training", "teaching", "bridges", "spaceclip_worlds", "cli",
]  # fmt: skip
GROUND = {"errors", "_checks", "_files", "_digest", "_tensor_files"}
# Rooms that stand beside the tower of floors: the core finds them through entry points.
BEHIND_ENTRY_POINTS = {"spaceclip_adapters", "spaceclip_worlds", "bridges"}
OPTIONAL = {
    "accelerate", "av", "cv2", "lerobot", "mcap", "mcap_ros2", "metaworld", "mujoco", "onnx", "onnxruntime",
    "onnxscript", "open_clip", "rerun", "rosbags", "timm", "transformers",
}  # fmt: skip


def modules() -> dict[str, Path]:
    """Every module of the three packages by its dotted name; a package is its `__init__.py`."""
    found = {}
    for package, folder in PACKAGES.items():
        for path in folder.rglob("*.py"):
            parts = (package, *path.relative_to(folder).with_suffix("").parts)
            found[".".join(parts).removesuffix(".__init__")] = path
    return found


MODULES = modules()


def room_of(module: str) -> str:
    package, _, inside = module.partition(".")
    if package != "spaceclip_plugin":
        return package
    first = inside.partition(".")[0]
    return "ground" if first in GROUND else first


def imported(tree: ast.AST) -> Iterator[str]:
    """Dotted names that code imports anywhere, types for checkers alone aside."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute here"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if name in MODULES else node.module or ""
        else:
            yield from imported(node)


IMPORTS = {
    module: {name for name in imported(ast.parse(path.read_text())) if name in MODULES and name != module}
    for module, path in MODULES.items()
}


def test_no_import_runs_in_a_circle() -> None:
    graph = {module: {name for name in names if name != "spaceclip_plugin"} for module, names in IMPORTS.items()}
    for module in graph:  # importing a.b runs a's `__init__` first, which must not need a.b's importer
        graph[module].discard(module.rpartition(".")[0])
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@pytest.mark.parametrize("module", sorted(set(MODULES) - {"spaceclip_plugin"}))
def test_imports_run_downwards(module: str) -> None:
    room = room_of(module)
    if room == "spaceclip_adapters":
        allowed = {room, "ground", "hub", "depth", "steady", "towers", "teaching"}
    else:
        allowed = set(FLOORS[: FLOORS.index(room) + 1]) - (BEHIND_ENTRY_POINTS - {room})
        if room in ("cli", "spaceclip_worlds"):
            allowed |= {"bridges"}
    upwards = {name for name in IMPORTS[module] - {"spaceclip_plugin"} if room_of(name) not in allowed}
    assert upwards == set()


@pytest.mark.parametrize(
    "module", sorted(name for name in MODULES if room_of(name) not in {"bridges", "spaceclip_adapters"})
)
def test_optional_libraries_are_imported_when_asked_for(module: str) -> None:
    top = [
        node for node in ast.parse(MODULES[module].read_text()).body if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    names = {name.partition(".")[0] for node in top for name in imported(ast.Module([node], []))}
    assert names & OPTIONAL == set()


def test_the_root_holds_rooms() -> None:
    """What lies flat is the ground that every room stands on, and the guard."""
    flat = {path.stem for path in PACKAGES["spaceclip_plugin"].glob("*.py")}
    assert flat == {"__init__", "guard", *GROUND}
    for room in FLOORS:
        assert room in ("ground", "guard") or (PACKAGES.get(room) or PACKAGES["spaceclip_plugin"] / room).is_dir()


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_file_is_one_idea_and_says_which(module: str) -> None:
    text = MODULES[module].read_text()
    assert len(text.splitlines()) <= 400
    assert ast.get_docstring(ast.parse(text))


@pytest.mark.slow
def test_what_is_imported_is_declared() -> None:
    """Every library that the packages import is a dependency, or one of an extra."""
    declared = {Requirement(line).name.lower().replace("-", "_") for line in _requirements()}
    homes = packages_distributions()
    for module, path in MODULES.items():
        for name in {name.partition(".")[0] for name in imported(ast.parse(path.read_text()))}:
            if name in sys.stdlib_module_names or name in PACKAGES or name not in homes:
                continue
            assert {home.lower().replace("-", "_") for home in homes[name]} & declared, f"{module} imports {name}"


def _requirements() -> list[str]:
    return metadata("spaceclip-plugin").get_all("Requires-Dist") or []
