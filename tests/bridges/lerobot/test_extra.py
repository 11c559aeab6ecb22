"""The extra `lerobot` asks for what LeRobot's own policies run with: its pins are LeRobot's, and both agree."""

from __future__ import annotations

import importlib.metadata
import re
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

pytest.importorskip("lerobot.policies", reason="needs lerobot, in an environment of its own: make test-lerobot")

ROOT = Path(__file__).parents[3]
PINNED = ("torch", "transformers", "num2words")


def listed(extra: str) -> list[Requirement]:
    """Requirements of an extra as pyproject.toml lists them; Python 3.10 has no reader for that format."""
    text = (ROOT / "pyproject.toml").read_text().partition(f"\n{extra} = [")[2].partition("\n]")[0]
    return [Requirement(quoted) for quoted in re.findall(r'^\s*"([^"]+)"', text, re.MULTILINE)]


def for_python(requirements: Iterable[Requirement], version: str) -> list[Requirement]:
    environment = {"python_version": version, "python_full_version": f"{version}.0", "extra": ""}
    return [each for each in requirements if each.marker is None or each.marker.evaluate(environment)]


def lerobots(version: str) -> list[Requirement]:
    """What of LeRobot itself the extra asks for."""
    return [each for each in for_python(listed("lerobot"), version) if each.name == "lerobot"]


def pins(distribution: str, extras: Iterable[str]) -> dict[str, SpecifierSet]:
    """What a distribution asks for with these extras, following those that name others of its own."""
    found: dict[str, SpecifierSet] = {}
    wanted, done = {"", *extras}, set()
    requirements = [Requirement(line) for line in importlib.metadata.requires(distribution) or ()]
    while wanted - done:
        extra = (wanted - done).pop()
        done.add(extra)
        for each in requirements:
            if each.marker is not None and not each.marker.evaluate({"extra": extra}):
                continue
            if each.name == distribution:
                wanted |= each.extras
            else:
                found[each.name.lower()] = found.get(each.name.lower(), SpecifierSet()) & each.specifier
    return found


def test_one_lerobot_for_every_python() -> None:
    for version in ("3.10", "3.11", "3.12", "3.13"):
        [lerobot] = lerobots(version)
        assert lerobot.name == "lerobot"
        assert "smolvla" in lerobot.extras


def test_the_installed_lerobot_is_what_the_extra_asks_for() -> None:
    [lerobot] = lerobots(f"{sys.version_info.major}.{sys.version_info.minor}")
    assert importlib.metadata.version("lerobot") in lerobot.specifier
    metadata = importlib.metadata.metadata("lerobot")
    assert lerobot.extras <= set(metadata.get_all("Provides-Extra") or ())


@pytest.mark.parametrize("name", PINNED)
def test_lerobots_own_pins_come_with_it(name: str) -> None:
    """The extras name them: without, any version would be installed, and the policies die of some."""
    [lerobot] = lerobots(f"{sys.version_info.major}.{sys.version_info.minor}")
    pin = pins("lerobot", lerobot.extras).get(name)
    assert pin, f"no extra of {sorted(lerobot.extras)} pins {name}"
    assert any(each.operator in ("<", "<=", "==", "~=") for each in pin), f"{name}{pin} has no upper bound"


@pytest.mark.parametrize("name", ["torch", "transformers"])
def test_what_is_installed_here_is_what_they_pin(name: str) -> None:
    [lerobot] = lerobots(f"{sys.version_info.major}.{sys.version_info.minor}")
    installed = Version(importlib.metadata.version(name)).base_version
    assert installed in pins("lerobot", lerobot.extras)[name]
