"""Depth, a point and a guard in LeRobot's own loops: on a robot in step, in real time and through its server; trained.

The robot is scripted, the policy small and random. A guard that lets all pass and one that always stops tell by what
the robot was sent whether the loop heeds it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from own_commands import ROOT, run

WHY = "needs lerobot 0.6 or newer with its data sets: pip install lerobot[dataset]"
pytest.importorskip("lerobot.rollout", reason=WHY)
for package in ("datasets", "num2words", "gymnasium"):
    pytest.importorskip(package, reason="needs lerobot's extras dataset and smolvla")

import torch  # noqa: E402
from lerobot.datasets.lerobot_dataset import LeRobotDataset  # noqa: E402
from lerobot.policies.factory import get_policy_class, make_pre_post_processors  # noqa: E402
from scripted_robot import IMAGE_HW  # noqa: E402
from step_world import head_for  # noqa: E402

from spaceclip_plugin.bridges.lerobot import DepthGuardStep, DepthPointStep, DepthProcessorStep, add_depth  # noqa: E402
from spaceclip_plugin.guard import DepthGuard, GuardLimits  # noqa: E402

pytestmark = pytest.mark.slow

LENS = [60.0, 60.0, IMAGE_HW[1] / 2, IMAGE_HW[0] / 2, *IMAGE_HW]
TASK = "drive to the red box"
POINT = "observation.depth_point.front"
# A command of LeRobot's in a process that knows the robot.
WITH_ROBOT = (
    "import runpy, sys, scripted_robot; sys.argv[:1] = []; runpy.run_module(sys.argv[0], None, '__main__', True)"
)
GUIDE = ROOT / "spaceclip_plugin" / "bridges" / "lerobot" / "README.md"
STEPS = ["spaceclip_depth", "spaceclip_depth_point"]


@pytest.fixture(scope="module")
def here(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a process that has the robot, and a home for LeRobot's own files."""
    own = [environment["PYTHONPATH"], str(ROOT / "examples"), str(Path(__file__).parent), os.environ.get("PYTHONPATH")]
    paths = os.pathsep.join(filter(None, own))
    return {**environment, "PYTHONPATH": paths, "HF_LEROBOT_HOME": str(tmp_path_factory.mktemp("home"))}


@pytest.fixture(scope="module")
def policies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the policies "passing" and "stopping", whose pipelines hold all three steps."""
    folder = tmp_path_factory.mktemp("policies")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "examples" / "lerobot_env_rover"))
        from lerobot_env_rover.tiny_policies import build

        policy, preprocessor, postprocessor = build("smolvla", folder)
    head = head_for(policy)
    limits = GuardLimits(stop_below_m=0.0, slow_below_m=0.0, max_age=20, frozen_after=None)
    depth = DepthProcessorStep(head, fresh=True)
    guard = DepthGuardStep(head, actions="velocity", guard=DepthGuard(limits))
    add_depth(preprocessor, postprocessor, depth, guard, policy=policy)
    nearest = DepthPointStep("front", at="nearest", intrinsics=LENS)
    preprocessor.steps.insert(preprocessor.steps.index(depth) + 1, nearest)
    for part in (policy, preprocessor, postprocessor):
        part.save_pretrained(folder / "passing")
    shutil.copytree(folder / "passing", folder / "stopping")
    pipeline = folder / "stopping" / "policy_postprocessor.json"
    config: Any = json.loads(pipeline.read_text())
    config["steps"][-1]["config"]["guard"] |= {"stop_below_m": 1000.0, "slow_below_m": 1000.0}
    pipeline.write_text(json.dumps(config))
    return folder


def sent(log: Path) -> list[list[float]]:
    """What the robot was sent, action by action."""
    found = [json.loads(line) for line in log.read_text().splitlines()]
    assert found
    return found


def check_heeded(log: Path, kind: str) -> None:
    """A rover that must stop was sent nothing but zeros, one that may pass what the policy said."""
    assert any(any(action) for action in sent(log)) == (kind == "passing")


@pytest.mark.parametrize("kind", ["passing", "stopping"])
@pytest.mark.parametrize("inference", ["sync", "rtc"])
def test_lerobot_rollout(here: dict[str, str], policies: Path, tmp_path: Path, inference: str, kind: str) -> None:
    in_real_time = ("--inference.queue_threshold=2", "--inference.rtc.execution_horizon=2")
    printed = run(
        here,
        *("-c", WITH_ROBOT, "lerobot.scripts.lerobot_rollout", f"--policy.path={policies / kind}"),
        *("--policy.device=cpu", "--robot.type=scripted", "--robot.log=sent.jsonl", f"--task={TASK}"),
        *("--fps=2", "--duration=20", "--return_to_initial_position=false", f"--inference.type={inference}"),
        *(in_real_time if inference == "rtc" else ()),
        folder=tmp_path,
    )
    reaction = "pass" if kind == "passing" else "stop"
    assert set(re.findall("depth guard, robot .: ([a-z]*)", printed)) == {reaction}
    check_heeded(tmp_path / "sent.jsonl", kind)


def wait_on(process: subprocess.Popen[bytes], deadline: float, log: Path) -> None:
    """Half a second, unless the process is gone or it takes too long."""
    assert process.poll() is None, log.read_text()[-3000:]
    assert time.monotonic() < deadline, log.read_text()[-3000:]
    time.sleep(0.5)


def listening(port: int) -> bool:
    with socket.socket() as asking:
        return asking.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def serving(environment: dict[str, str], folder: Path, *, port: int) -> Iterator[None]:
    """LeRobot's policy server, started as the guide says, until it listens; stopped behind the block."""
    [line] = re.findall(r'^python -c "(.*policy_server.*)" ', GUIDE.read_text(), re.MULTILINE)
    with (folder / "server.log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-c", line, f"--port={port}"], env=environment, cwd=folder, stdout=log, stderr=log
        )
        try:
            deadline = time.monotonic() + 300
            while not listening(port):
                wait_on(server, deadline, folder / "server.log")
            yield
        finally:
            server.terminate()
            server.wait()


@pytest.mark.parametrize("kind", ["passing", "stopping"])
def test_the_policy_server(here: dict[str, str], policies: Path, tmp_path: Path, kind: str) -> None:
    pytest.importorskip("grpc", reason="needs lerobot's extra async")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [
        *(sys.executable, "-c", WITH_ROBOT, "lerobot.async_inference.robot_client", "--robot.type=scripted"),
        *("--robot.log=sent.jsonl", "--policy_type=smolvla", f"--pretrained_name_or_path={policies / kind}"),
        *("--actions_per_chunk=4", f"--task={TASK}", f"--server_address=127.0.0.1:{port}", "--fps=4"),
        "--aggregate_fn_name=latest_only",
    ]
    with serving(here, tmp_path, port=port), (tmp_path / "client.log").open("w") as log:
        client = subprocess.Popen(words, env=here, cwd=tmp_path, stdout=log, stderr=log)  # it goes on for ever
        try:
            deadline = time.monotonic() + 300
            while not (tmp_path / "sent.jsonl").exists() or len(sent(tmp_path / "sent.jsonl")) < 8:
                wait_on(client, deadline, tmp_path / "client.log")
        finally:
            client.kill()
            client.wait()
    check_heeded(tmp_path / "sent.jsonl", kind)


def record(root: Path, *, depth: bool) -> Path:
    """Two episodes of the rover."""
    names = ["height", "width", "channels"]
    photo = {"dtype": "image", "shape": (*IMAGE_HW, 3), "names": names}
    features: dict[str, Any] = {
        "observation.images.front": photo,
        "observation.state": {"dtype": "float32", "shape": (3,), "names": ["x", "y", "heading"]},
        "action": {"dtype": "float32", "shape": (2,), "names": ["speed", "turn"]},
    }
    if depth:
        info = {"is_depth_map": True, "depth_unit": "m"}
        features["observation.images.front_depth"] = {**photo, "shape": (*IMAGE_HW, 1), "info": info}
    written = LeRobotDataset.create("lab/rover", fps=2, root=root, features=features, use_videos=False)
    generator = np.random.default_rng(0)
    for frame in range(8):
        drawn = {
            "observation.images.front": generator.integers(0, 256, (*IMAGE_HW, 3), np.uint8),
            "observation.state": generator.normal(size=3).astype(np.float32),
            "action": generator.normal(size=2).astype(np.float32),
        }
        if depth:
            drawn["observation.images.front_depth"] = np.full((*IMAGE_HW, 1), 2.0, np.float32)
        written.add_frame({**drawn, "task": TASK})
        if frame % 4 == 3:
            written.save_episode()
    written.finalize()
    return root


def trained(environment: dict[str, str], policy: Path, data: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    flags = {
        "policy.path": policy, "policy.device": "cpu", "policy.push_to_hub": "false", "dataset.repo_id": "lab/rover",
        "dataset.root": data, "dataset.depth_output_unit": "m", "dataset.eval_split": 0.5, "eval_steps": 1, "steps": 2,
        "batch_size": 2, "num_workers": 0, "save_checkpoint": "true", "save_freq": 2, "wandb.enable": "false",
        "output_dir": folder / "run",
    }  # fmt: skip
    words = [sys.executable, "-m", "lerobot.scripts.lerobot_train", *(f"--{key}={flags[key]}" for key in flags)]
    return subprocess.run(words, env=environment, cwd=folder, capture_output=True, text=True, check=False)


def test_lerobot_train_keeps_the_steps(here: dict[str, str], policies: Path, tmp_path: Path) -> None:
    done = trained(here, policies / "passing", record(tmp_path / "rover", depth=True), tmp_path)
    assert done.returncode == 0, done.stderr[-4000:]
    assert "eval_loss" in done.stderr + done.stdout
    [folder] = (tmp_path / "run" / "checkpoints").glob("0*/pretrained_model")
    pipeline = json.loads((folder / "policy_preprocessor.json").read_text())
    assert [name for step in pipeline["steps"] if (name := step["registry_name"]).startswith("spaceclip")] == STEPS
    [weights] = folder.glob("policy_preprocessor_*spaceclip_depth.safetensors")
    [before] = (policies / "passing").glob("policy_preprocessor_*spaceclip_depth.safetensors")
    assert weights.read_bytes() == before.read_bytes()
    policy: Any = get_policy_class("smolvla").from_pretrained(folder)
    preprocessor, postprocessor = make_pre_post_processors(
        policy.config,
        pretrained_path=str(folder),
        preprocessor_overrides={"spaceclip_depth": {"policy": policy}},
        postprocessor_overrides={"spaceclip_depth_guard": {"policy": policy}},
    )
    observation = {
        "observation.images.front": torch.rand(3, *IMAGE_HW),
        "observation.state": torch.zeros(3),
        "task": TASK,
    }
    seen = preprocessor(observation)
    assert seen[POINT].shape == (1, 5)
    assert postprocessor(policy.select_action(seen)).shape == (1, 2)
    assert postprocessor.steps[-1].decisions[0].reaction == "pass"


def test_a_point_is_learnt_from_data_with_depth_alone(here: dict[str, str], policies: Path, tmp_path: Path) -> None:
    done = trained(here, policies / "passing", record(tmp_path / "rover", depth=False), tmp_path)
    assert done.returncode != 0
    assert "train policies on a data set that has it" in done.stderr
