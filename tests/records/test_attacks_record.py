"""What the README says of attacks is the record, and the record keeps the promises."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from spaceclip_plugin._files import read_json_object

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def attacks() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        return importlib.import_module("attacks")


@pytest.fixture(scope="module")
def found(attacks: ModuleType) -> dict[str, Any]:
    record: dict[str, Any] = read_json_object(attacks.RECORD)
    assert record["command"] == "python benchmarks/attacks.py"
    return dict(record["found"])


def test_the_readme_shows_it(attacks: ModuleType) -> None:
    shown = re.findall(r"<!-- attacks -->\n(.*?)\n<!-- /attacks -->", (ROOT / "README.md").read_text(), re.S)
    assert shown == [attacks.table(read_json_object(attacks.RECORD))], "python benchmarks/attacks.py --table"


def test_nothing_got_through(attacks: ModuleType, found: dict[str, Any]) -> None:
    for name in attacks.TITLES:
        tally = found[name]
        assert (tally["loaded_wrong"], tally["refused_otherwise"], tally["executed"]) == (0, 0, 0)
        assert tally["refused"] + tally["loaded_unharmed"] == tally["attacks"]
    assert found["weights"]["refused"] >= 16_000
    assert found["configs"]["refused"] >= 2_000
    assert found["repositories"]["refused"] >= 100
    assert found["extra_peak_bytes"] < 50e6
