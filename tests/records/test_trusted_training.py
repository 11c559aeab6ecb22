"""What the README says of training is the record, and the record keeps the promises."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from types import ModuleType

import pytest

from spaceclip_plugin._files import read_json_object

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def trusted_training() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        return importlib.import_module("trusted_training")


@pytest.fixture(scope="module")
def record(trusted_training: ModuleType) -> dict:
    return read_json_object(trusted_training.RECORD)


def test_the_readme_shows_it(trusted_training: ModuleType, record: dict) -> None:
    shown = re.findall(
        r"<!-- trusted-training -->\n(.*?)\n<!-- /trusted-training -->", (ROOT / "README.md").read_text(), re.S
    )
    assert shown == [trusted_training.table(record)], "python benchmarks/trusted_training.py --table"


def test_no_kill_left_an_unreadable_checkpoint(record: dict) -> None:
    found = record["kills"]["found"]
    assert (found["kills"], found["unreadable"]) == (200, 0)
    assert found["temporaries_left"] > 20  # kills that came too early or too late prove nothing


def test_memory_is_flat(record: dict) -> None:
    found = record["memory"]["found"]
    assert found["images"] == 10_000
    assert found["growth_bytes"] < 0.05 * found["peak_bytes_at_1000"]
    assert found["cache_bytes"] > 20 * found["growth_bytes"]


@pytest.mark.parametrize("features", ["fp16", "int8"])
def test_a_head_sees_its_host_as_it_saw_the_cache(record: dict, features: str) -> None:
    found = record["cached"]["found"][features]
    assert found["abs_rel"] == pytest.approx(found["abs_rel_live_host"], abs=2e-3)
