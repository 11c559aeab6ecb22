"""The guide for LeRobot, run block by block on a small policy and recordings made for it; and the doors' examples."""

from __future__ import annotations

import doctest
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from guide import run_guide
from PIL import Image

pytest.importorskip("lerobot.policies", reason="needs lerobot, in an environment of its own: make test-lerobot")

from recorded_sets import photo_and_depth, record_measured
from row_policies import SMOLVLA
from step_world import head_for, pipelines

from spaceclip_plugin.bridges.lerobot import adding, dataset, points, steps

ROOT = Path(__file__).parents[3]
GUIDE = ROOT / "spaceclip_plugin" / "bridges" / "lerobot" / "README.md"


def lay_folder(root: Path, seeds: range) -> None:
    for name in ("rgb", "depth"):
        (root / name).mkdir(parents=True)
    for seed in seeds:
        photo, depth_m = photo_and_depth(seed)
        Image.fromarray(photo).save(root / "rgb" / f"{seed}.png")
        np.save(root / "depth" / f"{seed}.npy", depth_m)


@pytest.mark.slow
def test_the_guide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("datasets", "num2words", "gymnasium"):
        pytest.importorskip(package, reason="needs lerobot's extras dataset and smolvla")
    monkeypatch.syspath_prepend(str(ROOT / "examples" / "lerobot_env_rover"))
    monkeypatch.syspath_prepend(str(tmp_path))
    from lerobot_env_rover.tiny_policies import build

    policy = build("smolvla", tmp_path / "my-policy")
    for part in policy:
        part.save_pretrained(tmp_path / "my-policy")
    del policy, part
    record_measured(tmp_path / "kitchen", range(10))
    lay_folder(tmp_path / "labelled", range(20, 28))
    lay_folder(tmp_path / "measured", range(30, 32))
    run_guide(GUIDE, tmp_path, monkeypatch)
    monkeypatch.delitem(sys.modules, "my_policy")


@pytest.mark.parametrize(
    "module", [steps, adding, points, dataset], ids=lambda module: module.__name__.rpartition(".")[2]
)
def test_examples_of_the_door(module: Any) -> None:
    """On a live policy, which an example cannot build in a line."""
    policy = SMOLVLA.seeded()
    preprocessor, postprocessor = pipelines(policy)
    given = {"policy": policy, "head": head_for(policy), "preprocessor": preprocessor, "postprocessor": postprocessor}
    results = [
        doctest.DocTestRunner().run(test)
        for test in doctest.DocTestFinder(exclude_empty=True).find(module, extraglobs={**given, "torch": torch})
        if test.examples
    ]
    assert results
    assert not any(result.failed for result in results)
