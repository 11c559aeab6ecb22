"""LeRobot policies with depth attached: the same actions, the same policy, and taps that are the tower's own bits."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spaceclip_plugin import attach_depth_head
from spaceclip_plugin._digest import module_digest
from spaceclip_plugin.towers.registry import find_tower
from spaceclip_plugin.towers.spec import MEAN, RAW_MEAN

pytest.importorskip("lerobot.policies", reason="needs lerobot, in an environment of its own: make test-lerobot")

from small_heads import actions, small_head
from tiny_policies import POLICIES
from tiny_policy import CAMERAS, CHUNK, TinyPolicy
from tower_truth import Maps, calls_of, maps_of

IN_EVERY_DTYPE = [pytest.param(tiny, dtype, id=f"{tiny.name}-{dtype}") for tiny in POLICIES for dtype in tiny.dtypes]


def state(policy: nn.Module) -> dict[str, object]:
    return {
        "digest": module_digest(policy),
        "keys": list(policy.state_dict()),
        "requires_grad": [parameter.requires_grad for parameter in policy.parameters()],
        "modes": [module.training for module in policy.modules()],
        "modules": [name for name, _ in policy.named_modules()],
        "random": torch.get_rng_state().tolist(),
    }


def hooks(policy: nn.Module) -> list[tuple[int, int]]:
    return [(len(module._forward_hooks), len(module._forward_pre_hooks)) for module in policy.modules()]


@pytest.fixture(params=POLICIES, ids=lambda tiny: tiny.name)
def tiny(request: pytest.FixtureRequest) -> TinyPolicy:
    return request.param


def test_the_tower_is_found_for_what_it_is(tiny: TinyPolicy, record_property: Callable[[str, object], None]) -> None:
    policy = tiny.seeded()
    classes = {"host": type(policy).__name__, "tower": type(policy.get_submodule(tiny.path)).__name__}
    for name, value in {"contract": tiny.name, "adapter": tiny.adapter, **classes}.items():
        record_property(name, value)
    found = find_tower(policy)
    assert (found.spec.adapter, found.spec.path, found.spec.context) == (tiny.adapter, tiny.path, tiny.context)
    assert (tiny.image_hw[0] // found.spec.patch_size, tiny.image_hw[1] // found.spec.patch_size) == tiny.grid_hw


@pytest.mark.parametrize(("tiny", "dtype"), IN_EVERY_DTYPE)
def test_actions_and_policy_stay_the_same(tiny: TinyPolicy, dtype: str) -> None:
    policy, batch = tiny.seeded(dtype), tiny.batch(2)
    plain = actions(policy, batch, 2 * CHUNK)
    before, hooked_before = state(policy), hooks(policy)
    with attach_depth_head(policy, small_head(policy)) as depth:
        during = actions(policy, batch, 2 * CHUNK)
        assert state(policy) == before
        assert hooks(policy) != hooked_before
        assert depth.read()
        assert state(policy) == before
        again = actions(policy, batch, 2 * CHUNK)
    after = actions(policy, batch, 2 * CHUNK)
    assert plain.isfinite().all()
    assert all(torch.equal(plain, other) for other in (during, again, after))
    assert state(policy) == before
    assert hooks(policy) == hooked_before


def test_actions_come_from_the_images(tiny: TinyPolicy) -> None:
    """Else the same actions would say nothing."""
    policy, batch = tiny.seeded(), tiny.batch(2)
    images = {name: value.flip(0) for name, value in batch.items() if name in CAMERAS or "pixel_values" in name}
    assert not torch.equal(actions(policy, batch), actions(policy, {**batch, **images}))


def test_whole_chunks_stay_the_same(tiny: TinyPolicy) -> None:
    if not tiny.predicts_unprepared:
        pytest.skip("its predict_action_chunk works inside select_action alone")
    policy, batch = tiny.seeded(), tiny.batch(2)

    def chunk() -> Tensor:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            return policy.predict_action_chunk(dict(batch))

    plain = chunk()
    with attach_depth_head(policy, small_head(policy)) as depth:
        assert torch.equal(plain, chunk())
        assert len(depth.read()) == tiny.calls
    assert plain.shape[:2] == (2, CHUNK)


def test_in_inference_mode_as_lerobot_evaluates(tiny: TinyPolicy) -> None:
    policy, batch = tiny.seeded(), tiny.batch(1)
    with attach_depth_head(policy, small_head(policy)) as depth:
        with torch.inference_mode():
            inside = actions(policy, batch)
        first = depth.read()
        outside = actions(policy, batch)
        second = depth.read()
    assert torch.equal(inside, outside)
    assert len(first) == len(second) == tiny.calls
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one.depth_m, other.depth_m)


@pytest.mark.parametrize("robots", [1, 3])
@pytest.mark.parametrize(("tiny", "dtype"), IN_EVERY_DTYPE)
def test_taps_are_the_towers_own_hidden_states(tiny: TinyPolicy, dtype: str, robots: int) -> None:
    policy, batch = tiny.seeded(dtype), tiny.batch(robots)
    tower = policy.get_submodule(tiny.path)
    with calls_of(tower.get_submodule(tiny.truth_at)) as calls:
        actions(policy, batch)
    truth = maps_of(tower, calls, tiny.truth)
    assert len(truth) == tiny.calls
    last = len(truth[0]) - 1
    for taps in ({}, {"semantic_taps": (last, 2), "structural_taps": (1,)}):
        head = small_head(policy, **taps)
        with attach_depth_head(policy, head) as depth:
            actions(policy, batch)
            captured = depth.features()
        assert len(captured) == tiny.calls
        for features, maps in zip(captured, truth, strict=True):
            for tap in head.taps:
                assert torch.equal(features.hidden[tap], maps[tap]), f"hidden state {tap}"
            assert len(features.hidden[0 if 0 in head.taps else 1]) == robots * tiny.images
            assert features.image_hw == tiny.image_hw
            _check_context(tiny, tower, features.context, maps)


def _check_context(tiny: TinyPolicy, tower: Any, context: Tensor | None, maps: Maps) -> None:
    assert context is not None
    assert context.shape == maps[-1].shape[:2]
    if tiny.context not in (MEAN, RAW_MEAN):
        return  # a vector of its own, tested on the tower alone
    tokens = maps[-1].flatten(2).transpose(1, 2)
    norm: Callable[[Tensor], Tensor] = getattr(copy.deepcopy(tower), "post_layernorm", lambda value: value)
    with torch.no_grad():
        torch.testing.assert_close(context, norm(tokens).mean(dim=1))


def test_a_frame_per_image_call_and_nothing_between_chunks(tiny: TinyPolicy) -> None:
    policy, batch = tiny.seeded(), tiny.batch(3)
    policy.reset()
    frames = []
    with attach_depth_head(policy, small_head(policy)) as depth:
        for step in range(2 * CHUNK):
            policy.select_action(dict(batch))
            fresh = depth.read()
            assert len(fresh) == (0 if step % CHUNK else tiny.calls)
            frames += fresh
    assert [frame.frame for frame in frames] == list(range(2 * tiny.calls))
    for frame in frames:
        assert frame.depth_m.shape == (3 * tiny.images, *tiny.image_hw)
        assert frame.image_hw == tiny.image_hw
        assert frame.valid.any(dim=(1, 2)).all()
        assert not frame.trained
