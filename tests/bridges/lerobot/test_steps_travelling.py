"""LeRobot's pipelines with depth steps on disk: what is saved is what is loaded, and anything else is refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from spaceclip_plugin.errors import CheckpointError
from spaceclip_plugin.guard import DepthGuard, GuardLimits

pytest.importorskip("lerobot.policies", reason="needs lerobot, in an environment of its own: make test-lerobot")

from step_world import TOP, act, add_both, guard, head_for, images_of, loaded, pipelines
from tiny_policy import observation

from spaceclip_plugin.bridges.lerobot import DepthProcessorStep


class TestTravelling:
    def save(self, policy: Any, folder: Path, **options: Any) -> tuple[Any, Any]:
        preprocessor, postprocessor = pipelines(policy)
        options = {"guard": guard(region=(0.25, 0.0, 1.0, 1.0), when_uncertain="hold")} | options
        add_both(preprocessor, postprocessor, head_for(policy), **options)
        preprocessor.save_pretrained(folder)
        postprocessor.save_pretrained(folder)
        return preprocessor, postprocessor

    def test_round_trip(self, policy: Any, tmp_path: Path) -> None:
        saved = self.save(policy, tmp_path, fresh=True, cameras=["wrist", "top"], stop_action=[0.5] * 6)
        back = loaded(policy, tmp_path)
        places = (2, -1)
        for ours, theirs, place in zip(saved, back, places, strict=True):
            step, other = ours.steps[place], theirs.steps[place]
            assert type(step) is type(other)
            assert other.get_config() == step.get_config()
            assert other.head.config == step.head.config
            assert other.state_dict().keys() == step.state_dict().keys()
            for name, weight in step.state_dict().items():
                assert torch.equal(other.state_dict()[name], weight)
        depth_step, guard_step = back[0].steps[2], back[1].steps[-1]
        assert (depth_step.fresh, depth_step.cameras) == (True, ("wrist", "top"))
        assert guard_step.guard == guard(region=(0.25, 0.0, 1.0, 1.0), when_uncertain="hold", cameras=("wrist", "top"))
        assert (guard_step.actions, guard_step.stop_action) == ("velocity", (0.5,) * 6)

    def test_a_loaded_pipeline_does_the_same(self, policy: Any, tmp_path: Path) -> None:
        batch, outcomes = observation(2), []
        for preprocessor, postprocessor in (self.save(policy, tmp_path), loaded(policy, tmp_path)):
            policy.reset()
            for _ in range(2):
                seen = preprocessor(dict(batch))
                sent = postprocessor(act(policy, seen))
            outcomes.append((seen[f"{TOP}_depth"], sent, postprocessor.steps[-1].counts))
        assert torch.equal(outcomes[0][0], outcomes[1][0])
        assert (outcomes[0][0] > 0).all()
        assert torch.equal(outcomes[0][1], outcomes[1][1])
        assert outcomes[0][2] == outcomes[1][2] == {"pass": 4}

    def test_overrides(self, policy: Any, tmp_path: Path) -> None:
        self.save(policy, tmp_path)
        _, postprocessor = loaded(
            policy, tmp_path, postprocessor_overrides={"spaceclip_depth_guard": {"guard": {"stop_below_m": 0.5}}}
        )
        assert postprocessor.steps[-1].guard == DepthGuard(GuardLimits(stop_below_m=0.5))
        with pytest.raises(ValueError, match=r"unknown key 'stop_belw_m' \(did you mean 'stop_below_m'\?\)"):
            loaded(policy, tmp_path, postprocessor_overrides={"spaceclip_depth_guard": {"guard": {"stop_belw_m": 1}}})

    @pytest.mark.parametrize("damage", ["missing", "unknown", "shape", "nan"])
    def test_weights_are_taken_strictly(self, policy: Any, damage: str) -> None:
        step = DepthProcessorStep(head_for(policy))
        state = step.state_dict()
        name = next(iter(state))
        if damage == "missing":
            del state[name]
        elif damage == "unknown":
            state["other"] = torch.zeros(1)
        elif damage == "shape":
            state[name] = torch.zeros(3, *state[name].shape)
        else:
            state[name] = torch.full_like(state[name], torch.nan)
        before = step.state_dict()
        with pytest.raises(CheckpointError, match="the state of DepthProcessorStep"):
            step.load_state_dict(state)
        assert all(torch.equal(step.state_dict()[name], weight) for name, weight in before.items())

    def test_a_file_that_did_not_come_along(self, policy: Any, tmp_path: Path) -> None:
        self.save(policy, tmp_path)
        config = tmp_path / "policy_preprocessor.json"
        config.write_text(config.read_text().replace('"state_file": "policy_preprocessor_step_2', '"left_out": "'))
        preprocessor, _ = loaded(policy, tmp_path)
        with pytest.raises(CheckpointError, match="has no weights"):
            preprocessor(observation(1))

    def test_other_weights_are_read_with_from_then_on(self, policy: Any) -> None:
        step, other = DepthProcessorStep(head_for(policy), fresh=True), head_for(policy, seed=4)
        step.connect(policy)
        batch = images_of(observation(1))
        before = step.observation(dict(batch))[f"{TOP}_depth"]
        step.load_state_dict(other.state_dict())
        after = step.observation(dict(batch))[f"{TOP}_depth"]
        assert not torch.equal(before, after)
        fresh = DepthProcessorStep(other, fresh=True)
        del step
        assert torch.equal(fresh.observation(dict(batch))[f"{TOP}_depth"], after)

    def test_a_head_from_its_folder(self, policy: Any, tmp_path: Path) -> None:
        head_for(policy).save_pretrained(tmp_path / "head")
        step = DepthProcessorStep(tmp_path / "head")
        shutil.rmtree(tmp_path / "head")
        assert torch.equal(next(step.head.parameters()), next(head_for(policy).parameters()))
        with pytest.raises(CheckpointError):
            DepthProcessorStep(tmp_path / "head")
