"""The record of which policies depth works with: what it says of each holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import policies
import pytest

WHY = "needs lerobot 0.6 or newer with its data sets: pip install lerobot[dataset]"
pytest.importorskip("lerobot.configs.video", reason=WHY)
for package in ("datasets", "av", "pandas"):
    pytest.importorskip(package, reason=WHY)

from hosted_policies import HOSTED, HostedPolicy  # noqa: E402
from policy_checks import lay, outcomes, without_a_tower  # noqa: E402

RECORDED: dict[str, Any] = json.loads(policies.RECORD.read_text())["policies"]
SEEN = [hosted.kind for hosted in HOSTED]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("policies")
    lay(folder)
    return folder


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("hosted", HOSTED, ids=lambda hosted: hosted.kind)
def test_what_is_recorded_of_a_policy_holds(hosted: HostedPolicy, place: Path) -> None:
    try:
        found = outcomes(hosted, place)
    except ImportError as error:
        pytest.skip(f"{hosted.kind} needs more than is installed: {error}")
    assert found == RECORDED[hosted.kind]


@pytest.mark.parametrize("kind", [kind for kind in RECORDED if kind not in SEEN])
def test_what_is_recorded_of_one_without_a_tower_holds(kind: str, tmp_path: Path) -> None:
    assert without_a_tower(kind, tmp_path) == RECORDED[kind]


def test_every_policy_with_a_tower_was_tried() -> None:
    assert set(SEEN) <= set(RECORDED)
