"""Whether depth helps a policy: every part of the experiment at a tiny size, without a simulator, and its verdict."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import graft_policies as benchmark
import graft_table
import graft_watch
import numpy as np
import pytest
import timm
import torch
from cloned_policy import STATE, Expert, Policy, action_error, fit, with_low_rank
from graft_demos import MOST_STEPS, demonstrate
from small_world import tiny_mixer

from spaceclip_plugin import DepthAttachment, Intrinsics, attach_depth_head

LENS = Intrinsics.from_fovy(1.0, (32, 32))


class TinyTask:
    """A task that is done after 20 steps forward, seen in noise."""

    def __init__(self) -> None:
        self.start(0)

    def start(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self.observation, self.success, self.steps = np.zeros(39), seed == 70, 0
        self.done = 0.0

    def step(self, action: np.ndarray) -> None:
        self.steps += 1
        self.done += float(action[0])
        self.observation[:3] += 0.01 * action[:3]
        self.success = self.success or self.done > 20

    def expert(self) -> Callable[[np.ndarray], np.ndarray]:
        return lambda _: np.array([2.0, 0.0, -0.5, 0.0])

    def image(self) -> np.ndarray:
        return self._random.integers(0, 255, (32, 32, 3), dtype=np.uint8)

    def pose(self) -> np.ndarray:
        return np.eye(4)

    def render(self) -> Any:
        depth_m = self._random.uniform(0.5, 2, (32, 32)).astype(np.float32)
        depth_m[:4] = math.inf
        return SimpleNamespace(image=self.image(), depth_m=depth_m, camera_to_world=np.eye(4))


def tiny_policy(_: Any = None) -> Policy:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 192, "depth": 2, "num_heads": 2}
        return Policy(timm.create_model("vit_tiny_patch16_224", num_classes=0, **sizes)).eval()


def attached(policy: Policy) -> DepthAttachment:
    return attach_depth_head(policy, tiny_mixer(policy.tower).eval(), cameras={"corner2": LENS})


@contextmanager
def live_task() -> Iterator[TinyTask]:
    yield TinyTask()


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """The command, at a size of one demonstration."""
    monkeypatch.setattr(benchmark.Setup, "policy", tiny_policy)
    for name, value in {
        "attached": attached, "live_task": live_task, "COUNTS": (20,), "STEPS": {20: (3, 2)}, "CHECKED_EVERY": 1,
        "LEARN": range(20),
        "AGAIN": range(50, 70),
        "VALIDATE": range(30, 31), "TEST": range(40, 41), "HELD_OUT": 1, "SEEDS": (0,), "BATCH": 4,
        "RECORD": tmp_path / "record.json",
    }.items():  # fmt: skip
        monkeypatch.setattr(benchmark, name, value)

    def run(part: str, *words: str) -> None:
        place = ["--weights", "none", "--runs", str(tmp_path), "--counts", "20", "--seeds", "0", "--episodes", "2"]
        benchmark.main([part, *place, *words])

    return run


@pytest.mark.slow
def test_every_part_of_the_experiment(tiny: Callable[..., None], tmp_path: Path) -> None:
    tiny("collect")
    tiny("train")
    learnt = {row: json.loads((tmp_path / "20-0" / f"{row}.json").read_text()) for row in benchmark.ROWS}
    assert learnt["predicted"]["off_is_none"] is True
    assert learnt["predicted"]["parameters"] == learnt["true"]["parameters"]
    assert learnt["lora"]["parameters"] == pytest.approx(learnt["true"]["parameters"], rel=0.05)
    before = (tmp_path / "20-0" / "host.safetensors").stat().st_mtime_ns
    tiny("train")
    assert (tmp_path / "20-0" / "host.safetensors").stat().st_mtime_ns == before
    tiny("roll", "--share", "0/2")
    tiny("roll", "--share", "1/2")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("attached", "live_task", "Setup"):
            patch.setattr(graft_watch, name, getattr(benchmark, name))
        setup = benchmark.Setup(tmp_path, Path("none"))
        panels = graft_watch.watch(setup, 20, 0, 3, None)
        assert graft_watch.watch(setup, 20, 0, 70, None) == []  # done before it began
    assert [panel.shape for panel in panels] == [(32, 3 * 32, 3)] * len(panels)
    assert len(panels) > 1
    tiny("record")
    record = json.loads((tmp_path / "record.json").read_text())
    for runs in record["demonstrations"]["20"].values():
        assert [len(run["successes"]) for run in runs] == [2]
    assert len(graft_table.table(record).splitlines()) == 2 + len(benchmark.ROWS)


def test_what_is_kept_of_a_picture_makes_the_policy_act_as_what_is_seen(tmp_path: Path) -> None:
    policy, live = tiny_policy(), TinyTask()
    with attached(policy) as attachment:
        graft = benchmark.graft_for("predicted", policy, attachment).eval()
        torch.nn.init.normal_(graft.layer(3).out.weight, std=0.1)
        benchmark.collect(live, range(1), tmp_path, policy, attachment, graft.config)
        lessons = benchmark.Lessons.read(tmp_path, range(1), 1)
        one = demonstrate(live, 0)
        assert one is not None
        with graft.attach(policy, attachment) as grafted, torch.no_grad():
            grafted.place({"corner2": one.to_hand})
            own = policy(one.images, one.state)
            kept = benchmark.predictions(policy.expert, lessons, benchmark.giver("predicted", grafted.give))
            off = benchmark.predictions(policy.expert, lessons, benchmark.giver("predicted", grafted.give, 0))
    torch.testing.assert_close(kept, own, atol=2e-3, rtol=0)  # kept in float16
    torch.testing.assert_close(off, benchmark.predictions(policy.expert, lessons), atol=0, rtol=0)
    assert (kept - off).abs().max() > 0.05


def test_a_demonstration_tells_the_next_actions_of_the_expert() -> None:
    one = demonstrate(TinyTask(), 3)
    assert one is not None
    assert one.actions[:, :, 0].unique().tolist() == [1.0]  # cut to what the arm can do
    assert one.known[0].all()
    assert not one.known[-1].all()
    assert len(one.images) == len(one.state) == len(one.to_hand)


def test_an_episode_ends_with_success_or_with_patience() -> None:
    live, still = TinyTask(), torch.zeros(8, 4)
    assert benchmark.episode(live, lambda _: still, 70) == (True, 0)
    assert benchmark.episode(live, lambda _: still, 1) == (False, MOST_STEPS)
    assert benchmark.episode(live, lambda _: still + 1, 1) == (True, 21)


def test_low_ranks_of_equal_size_start_as_the_expert_was() -> None:
    torch.manual_seed(0)
    expert = Expert().eval().requires_grad_(False)
    adapted = with_low_rank(expert, 400_000)
    seen = torch.rand(2, 16, 192), torch.rand(2, STATE)
    assert torch.equal(adapted(*seen), expert(*seen))
    learnt = [each for each in adapted.parameters() if each.requires_grad]
    assert sum(map(torch.numel, learnt)) == pytest.approx(400_000, rel=0.05)
    assert len(learnt) == 2 * 4 * 7


def test_learning_keeps_what_was_best() -> None:
    weight = torch.nn.Parameter(torch.tensor([5.0]))
    errors = iter([3.0, 2.0, 1.0, 4.0])
    values = []

    def validation() -> float:
        values.append(float(weight.detach()))
        return next(errors)

    groups = [{"params": [weight], "lr": 0.1}]
    found = fit(groups, lambda: weight.square().sum(), validation, steps=3, every=1)
    assert found == {"step": 2, "error": 1.0}
    assert float(weight.detach()) == values[2] < values[1] < 5.0


def test_actions_that_nobody_knows_are_no_error() -> None:
    known = torch.tensor([[True, False]])
    assert float(action_error(torch.tensor([[[1.0, 3.0], [9.0, 9.0]]]), torch.zeros(1, 2, 2), known)) == 2.0


def runs(*successes: str, errors: tuple[float, ...] = (0.2, 0.3)) -> list[dict[str, Any]]:
    return [{"successes": one, "error": error} for one, error in zip(successes, errors, strict=True)]


def test_a_gain_is_one_beyond_the_spread_of_seeds() -> None:
    rows = {name: runs("0001", "0011") for name in graft_table.CONTROLS} | {"predicted": runs("0111", "1111")}
    assert all(graft_table.gains(rows, by_success=True).values())
    rows["lora"] = runs("0000", "1110")  # as good as the worst of it
    assert [name for name, gain in graft_table.gains(rows, by_success=True).items() if not gain] == ["lora"]
    assert not any(graft_table.gains(rows, by_success=False).values())


def test_a_difference_is_of_the_same_episodes() -> None:
    one, other = runs("1101", "1111"), runs("0001", "0011")
    assert graft_table.difference(one, other)[0] == pytest.approx(0.5)
    assert graft_table.difference(one, one) == (0.0, 0.0, 0.0)
