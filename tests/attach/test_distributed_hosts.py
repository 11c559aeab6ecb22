"""Two processes, each with its half of the host's weights: every one reads the depth of its own pictures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from wrappers import DISTRIBUTED

TESTS = Path(__file__).parent
PROCESSES = 2


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("processes")
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(TESTS), *filter(None, sys.path)]),
    }
    command = [sys.executable, str(TESTS / "distributed_worker.py")]
    running = [
        subprocess.Popen(
            [*command, str(rank), str(PROCESSES), str(folder)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(PROCESSES)
    ]
    try:
        said = [process.communicate(timeout=180)[0] for process in running]
    finally:
        for process in running:
            process.kill()  # one that waits for another that died
    assert [process.returncode for process in running] == [0] * PROCESSES, "\n".join(said)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(PROCESSES)]


@pytest.fixture(params=["eval", "train"])
def mode(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=["before", "after"])
def order(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=DISTRIBUTED)
def found(request: pytest.FixtureRequest, reports: list[dict[str, Any]], order: str, mode: str) -> list[dict[str, Any]]:
    of_each = [report[f"{request.param}, attached {order}, {mode}"] for report in reports]
    if isinstance(of_each[0], str):
        pytest.skip(of_each[0])
    return of_each


@pytest.mark.slow
def test_every_process_reads_the_depth_of_its_own_pictures(found: list[dict[str, Any]]) -> None:
    for process in found:
        assert (process["same logits"], process["frames"], process["same depth"]) == (True, 1, True)


@pytest.mark.slow
def test_refresh_gives_the_depth_or_refuses(found: list[dict[str, Any]]) -> None:
    # A tower whose weights lie elsewhere can run only inside its host.
    assert all(process["refresh"] in (True, "refused") for process in found), found


@pytest.mark.slow
@pytest.mark.parametrize("name", DISTRIBUTED)
def test_one_process_alone_can_ask_which_tower_it_is(name: str, reports: list[dict[str, Any]], order: str) -> None:
    found = reports[0][f"{name}, attached {order}, eval"]
    if isinstance(found, str):
        pytest.skip(found)
    # Half a tower tells nothing, and must not be taken for another one.
    assert found["tower"] == ("same" if name == "ddp" else "unknown")
