"""LeRobot's own command lines find the steps by their distribution, and drive with a guard that came from a folder."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from own_commands import run

pytest.importorskip("lerobot.policies", reason="needs lerobot, in an environment of its own: make test-lerobot")

ROOT = Path(__file__).parents[3]
EXAMPLE = ROOT / "examples" / "lerobot_depth_guard.py"
NEEDS_DATASETS = "lerobot-eval needs datasets, which LeRobot's extra `dataset` brings"

FOUND = """
import sys
from lerobot.processor import ProcessorStepRegistry
from lerobot.utils.import_utils import register_third_party_plugins

assert "spaceclip_depth" not in ProcessorStepRegistry.list()
register_third_party_plugins()
for name in ("spaceclip_depth", "spaceclip_depth_guard"):
    print(ProcessorStepRegistry.get(name).__name__)
"""

# SmolVLA's processor needs num2words, and is not needed here but for two token ids.
EVAL = """
import importlib.util, sys, types
import lerobot.policies.smolvla.smolvlm_with_expert as inner
from lerobot.scripts.lerobot_eval import main

if importlib.util.find_spec("num2words") is None:
    ids = types.SimpleNamespace(fake_image_token_id=5, global_image_token_id=6)
    inner.AutoProcessor = types.SimpleNamespace(from_pretrained=lambda _: types.SimpleNamespace(tokenizer=ids))
given = sys.argv[1:]
for name in ("passing", "stopping"):
    print(f"--- {name}", file=sys.stderr, flush=True)
    sys.argv = ["lerobot-eval", *(value.replace("NAME", name) for value in given)]
    main()
"""


@pytest.fixture(scope="module")
def saved(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The policy that the example saves, and what it printed."""
    folder = tmp_path_factory.mktemp("policy")
    return folder, run(environment, str(EXAMPLE), "smolvla", str(folder), folder=folder)


def test_the_distribution_is_found_by_its_name(environment: dict[str, str], tmp_path: Path) -> None:
    printed = run(environment, "-c", FOUND, folder=tmp_path)
    assert printed.split()[-2:] == ["DepthProcessorStep", "DepthGuardStep"]


@pytest.mark.slow
def test_the_example(saved: tuple[Path, str]) -> None:
    folder, printed = saved
    assert "identical=True" in printed
    assert len(EXAMPLE.read_text().splitlines()) < 60
    steps = [line for line in printed.splitlines() if " -> " in line]
    assert len(steps) == 12
    assert any("-> stop [0.0, 0.0]: camera 'front'" in line for line in steps)
    names = {path.name for path in folder.iterdir()}
    assert {"policy_preprocessor_step_5_spaceclip_depth.safetensors", "config.json", "model.safetensors"} <= names


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("datasets") is None, reason=NEEDS_DATASETS)
def test_lerobot_eval(environment: dict[str, str], saved: tuple[Path, str], tmp_path: Path) -> None:
    """A guard that always stops lets no rover move: the reward, metres nearer to the goal, is nothing."""
    for name, stop_below_m in (("passing", 0.0), ("stopping", 1000.0)):
        shutil.copytree(saved[0], tmp_path / name)
        pipeline = tmp_path / name / "policy_postprocessor.json"
        config: Any = json.loads(pipeline.read_text())
        config["steps"][-1]["config"]["guard"] |= {"stop_below_m": stop_below_m, "slow_below_m": stop_below_m}
        pipeline.write_text(json.dumps(config))
    printed = run(
        environment,
        *("-c", EVAL, "--policy.path=NAME", "--policy.device=cpu", "--output_dir=NAME-out"),
        *("--env.type=rover", "--env.discover_packages_path=lerobot_env_rover", "--env.episode_length=6"),
        *("--eval.n_episodes=2", "--eval.batch_size=2", "--eval.use_async_envs=false"),
        folder=tmp_path,
    )
    _, passing, stopping = re.split("^--- .*$", printed, flags=re.MULTILINE)
    assert "Imported third-party plugin: lerobot_policy_spaceclip" in passing
    for robot in (0, 1):
        assert f"depth guard, robot {robot}: pass" in passing
        assert f"depth guard, robot {robot}: stop" in stopping
    assert "stop" not in re.findall("depth guard, robot .: ([a-z]*)", passing)
    assert all(reward != 0.0 for reward in rewards(tmp_path / "passing-out"))
    assert rewards(tmp_path / "stopping-out") == [0.0, 0.0]


def rewards(folder: Path) -> list[float]:
    """Of every episode."""
    info = json.loads((folder / "eval_info.json").read_text())
    found: list[float] = info["per_task"][0]["metrics"]["sum_rewards"]
    assert len(found) == 2
    return found
