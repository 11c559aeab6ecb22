"""Public names: each stands in a door's `__all__` and on the page of the API, and has an example that runs."""

from __future__ import annotations

import dataclasses
import doctest
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PretrainedConfig

import spaceclip_plugin

ROOT = Path(spaceclip_plugin.__file__).parent
PAGE = (ROOT / "README.md").read_text()
DOORS = sorted(
    ".".join(("spaceclip_plugin", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")
    for path in ROOT.rglob("*.py")
    if "__all__ = [" in path.read_text() and path.parent.name != "cli"  # a command line is no API
)
NEEDS = {"lerobot": "lerobot"}
MOST_PARAMETERS = 7


def door(name: str) -> ModuleType:
    """A door's module, or a skip where its optional library is not installed."""
    library = NEEDS.get(name.rpartition(".")[2])
    if library is not None:
        pytest.importorskip(library, reason=f"{name} needs {library}: make test-lerobot")
    return importlib.import_module(name)


def names() -> list[tuple[str, str]]:
    """Every public name with its door, as the page of the API lists them."""
    found, at = [], ""
    for line in PAGE.splitlines():
        if match := re.match(r"#+ `(spaceclip_plugin[\w.]*)`", line):
            at = match[1]
        elif match := re.match(r"\| `(\w+)` \|", line):
            found.append((at, match[1]))
    return found


NAMES = names()


def calls_of(value: Any) -> Iterator[tuple[str, Any]]:
    """What of a public name is called: itself, or its constructor and public methods that are ours to shape."""
    if inspect.isfunction(value):
        yield value.__name__, value
    if inspect.isclass(value):
        foreign = {name for base in value.__mro__[1:] if not is_ours(base) for name in vars(base)} - {"__init__"}
        for name, member in vars(value).items():
            function = getattr(member, "__func__", member)
            # A config of transformers takes the keys of its file, whether it is a dataclass (5) or not (4).
            made = dataclasses.is_dataclass(value) or issubclass(value, PretrainedConfig)
            constructs = name == "__init__" and not made
            if not inspect.isfunction(function) or name in foreign:  # what a library calls has its parameters
                continue
            if is_ours(function) and (constructs or not name.startswith("_")):
                yield f"{value.__name__}.{name}", function


def is_ours(value: Any) -> bool:
    return value.__module__.startswith("spaceclip_plugin")


@pytest.mark.parametrize("name", DOORS)
def test_all_is_what_the_page_lists_and_the_namespace_holds(name: str) -> None:
    module = door(name)
    listed = [public for at, public in NAMES if at == name]
    assert sorted(listed) == sorted(module.__all__) == sorted(set(module.__all__))
    if hasattr(module, "__path__"):  # a package holds nothing else
        held = {public for public, value in vars(module).items() if public[0] != "_" and not inspect.ismodule(value)}
        assert held - {"annotations", "TYPE_CHECKING"} <= set(module.__all__)
    for public in module.__all__:
        value = getattr(module, public)
        assert value if public.isupper() else value.__name__ == public


def test_the_page_lists_no_other_door() -> None:
    assert {at for at, _ in NAMES} == set(DOORS)


@pytest.mark.parametrize(("at", "name"), NAMES)
def test_calls_take_few_parameters_and_no_others(at: str, name: str) -> None:
    for called, function in calls_of(getattr(door(at), name)):
        parameters = [one for one in inspect.signature(function).parameters.values() if one.name not in ("self", "cls")]
        assert not [one for one in parameters if one.kind is inspect.Parameter.VAR_KEYWORD], called
        assert len(parameters) <= MOST_PARAMETERS, called


@pytest.mark.slow
@pytest.mark.parametrize(("at", "name"), NAMES)
def test_a_name_is_documented_by_an_example_that_runs(at: str, name: str, tmp_path: Path) -> None:
    value = getattr(door(at), name)
    if name.isupper():
        pytest.skip("a table: what stands in it has examples of its own")
    assert inspect.getdoc(value)
    # Beside their own imports examples see what the door and the front door export, torch and NumPy.
    seen = {public: getattr(module, public) for module in (spaceclip_plugin, door(at)) for public in module.__all__}
    finder = doctest.DocTestFinder()
    tests = [test for test in finder.find(value, name, globs={**seen, "torch": torch, "np": np}) if test.examples]
    assert tests, f"{at}.{name} has no example"
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        for test in tests:
            doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=said.append, clear_globs=False)
    assert not said, "".join(said)
