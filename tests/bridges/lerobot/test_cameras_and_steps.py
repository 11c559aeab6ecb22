"""Which camera a depth map belongs to, how old it is, and what becomes of cameras that are not there."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from spaceclip_plugin import DepthAttachment, DepthMap, DepthReader, attach_depth_head

pytest.importorskip("lerobot.policies", reason="needs lerobot, in an environment of its own: make test-lerobot")

from packed_policies import MOLMOACT2, XVLA, molmo_inputs
from row_policies import PI0, PI0_FAST, PI05, SMOLVLA
from small_heads import actions, small_head
from tiny_policies import POLICIES
from tiny_policy import CAMERAS, CHUNK, VIEWS, TinyPolicy, observation

PREPROCESSED = ("pixel_values", "eagle_pixel_values")


def each_of(*policies: TinyPolicy) -> pytest.MarkDecorator:
    """Those of them that the installed lerobot has."""
    here = [tiny for tiny in policies if tiny in POLICIES]
    return pytest.mark.parametrize("tiny", here, ids=lambda tiny: tiny.name)


every_policy = each_of(*POLICIES)
filling = each_of(PI0, PI05, PI0_FAST)
one_call_per_camera = each_of(PI0, PI05, PI0_FAST, SMOLVLA)


def attached(policy: Any) -> DepthAttachment:
    return attach_depth_head(policy, small_head(policy))


def views(maps: list[DepthMap]) -> list[str | None]:
    return [depth.camera for depth in maps]


def without(batch: dict[str, Any], camera: str) -> dict[str, Any]:
    return {name: value for name, value in batch.items() if name != camera}


@every_policy
def test_a_map_is_named_where_one_call_is_one_camera(tiny: TinyPolicy) -> None:
    policy = tiny.seeded()
    with attached(policy) as depth:
        actions(policy, tiny.batch(3))
        assert views(depth.read()) == list(tiny.views)


@one_call_per_camera
def test_the_name_is_that_of_the_image(tiny: TinyPolicy) -> None:
    policy, batch = tiny.seeded(), tiny.batch(1)
    changed = {**batch, CAMERAS[1]: 1 - batch[CAMERAS[1]]}
    with attached(policy) as depth:
        actions(policy, batch)
        before = {seen.camera: seen.depth_m for seen in depth.read()}
        actions(policy, changed)
        after = {seen.camera: seen.depth_m for seen in depth.read()}
    assert torch.equal(before["top"], after["top"])
    assert not torch.equal(before["wrist"], after["wrist"])


@every_policy
def test_names_in_the_order_given_by_the_caller(tiny: TinyPolicy) -> None:
    policy = tiny.seeded()
    names = [f"camera {number}" for number in range(tiny.calls)]
    with attach_depth_head(policy, small_head(policy), cameras=names) as depth:
        actions(policy, tiny.batch(1))
        assert views(depth.read()) == names


@every_policy
def test_two_chunks_in_one_step_bear_no_names(tiny: TinyPolicy) -> None:
    """Two calls for two cameras, but each call may hold both cameras: a wrong name would be worse than none."""
    policy, batch = tiny.seeded(), tiny.batch(1)
    with attached(policy) as depth:
        actions(policy, batch)
        actions(policy, batch)
        assert views(depth.read()) == [None] * 2 * tiny.calls


@filling
@pytest.mark.parametrize("missing", CAMERAS)
def test_a_missing_camera_is_a_blank_last_call(tiny: TinyPolicy, missing: str) -> None:
    policy, batch = tiny.seeded(), without(tiny.batch(2), missing)
    plain = actions(policy, batch)
    with attached(policy) as depth:
        assert torch.equal(actions(policy, batch), plain)
        seen, filled = depth.read()
    assert seen.valid.any()
    assert not filled.valid.any()
    # The camera that is there comes first, whichever it is.
    assert seen.camera in (None, "wrist" if missing == CAMERAS[0] else "top")
    assert filled.camera in (None, "top" if missing == CAMERAS[0] else "wrist")


@pytest.mark.parametrize("missing", CAMERAS)
def test_smolvla_leaves_a_missing_camera_out(missing: str) -> None:
    policy, batch = SMOLVLA.seeded(), without(observation(2), missing)
    plain = actions(policy, batch)
    with attached(policy) as depth:
        assert torch.equal(actions(policy, batch), plain)
        [seen] = depth.read()
    assert seen.valid.any()
    assert seen.camera in (None, "wrist" if missing == CAMERAS[0] else "top")


@one_call_per_camera
@pytest.mark.parametrize("placeholders", [0, 1, 2])
@pytest.mark.parametrize("missing", [None, *CAMERAS])
def test_the_present_cameras_bear_their_names_once_they_are_told(
    tiny: TinyPolicy, missing: str | None, placeholders: int
) -> None:
    policy = tiny.seeded(empty_cameras=placeholders)
    batch = tiny.batch(1) if missing is None else without(tiny.batch(1), missing)
    with attached(policy) as depth:
        depth.given(batch)
        actions(policy, batch)
        maps = depth.read()
        each = {seen.camera: seen.age for seen in depth.latest_of_each}
    there = [view for view, camera in zip(VIEWS, CAMERAS, strict=True) if camera != missing]
    assert views(maps[: len(there)]) == there
    assert [bool(seen.valid.any()) for seen in maps] == [True] * len(there) + [False] * (len(maps) - len(there))
    assert each == dict.fromkeys(there, 0)


@one_call_per_camera
@pytest.mark.parametrize("placeholders", [1, 2])
def test_placeholders_and_a_dark_camera_cost_no_name_that_is_certain(tiny: TinyPolicy, placeholders: int) -> None:
    policy, batch = tiny.seeded(empty_cameras=placeholders), tiny.batch(1)
    names = [*VIEWS, *(f"empty_camera_{i}" for i in range(placeholders))]
    with attached(policy) as depth:
        assert depth.cameras == tuple(names)
        actions(policy, batch)
        assert views(depth.read()) == names
        actions(policy, {**batch, CAMERAS[0]: torch.zeros_like(batch[CAMERAS[0]])})
        assert views(depth.read()) == names
        actions(policy, {**batch, CAMERAS[1]: torch.zeros_like(batch[CAMERAS[1]])})
        # pi0 calls its tower on such an image for a missing camera, too; SmolVLA would call it less often.
        assert views(depth.read()) == (names if tiny is SMOLVLA else [None] * len(names))


@each_of(SMOLVLA, PI0)
@pytest.mark.parametrize("every", [1, 3, 7])
def test_a_reader_is_no_slower_than_the_chunks(tiny: TinyPolicy, every: int) -> None:
    policy, batch = tiny.seeded(), tiny.batch(1)
    policy.reset()
    apart = CHUNK * -(-every // CHUNK)
    read, ages = [], []
    with attached(policy) as depth, DepthReader(depth, every=every) as reader:
        for _ in range(2 * apart + 1):
            policy.select_action(dict(batch))
            read += [seen.step for seen in reader.step()]
            ages.append([seen.age for seen in reader.latest_of_each])
    assert read == [step for step in (0, apart, 2 * apart) for _ in VIEWS]
    assert ages == [[step % apart] * len(VIEWS) for step in range(2 * apart + 1)]


@every_policy
def test_depth_that_is_kept_grows_older(tiny: TinyPolicy) -> None:
    policy, batch = tiny.seeded(), tiny.batch(1)
    policy.reset()
    with attached(policy) as depth:
        policy.select_action(dict(batch))
        kept, ages = depth.read(), []
        for _ in range(CHUNK + 1):
            policy.select_action(dict(batch))
            depth.read()
            ages.append({seen.age for seen in kept})
    assert ages == [{age} for age in range(1, CHUNK + 2)]


@each_of(PI0, PI05, SMOLVLA)
def test_a_camera_declared_empty_keeps_its_name(tiny: TinyPolicy) -> None:
    policy = tiny.seeded(empty_cameras=1)
    with attached(policy) as depth:
        actions(policy, tiny.batch(1))
        maps = depth.read()
    assert views(maps) == [*VIEWS, "empty_camera_0"]
    assert [bool(seen.valid.any()) for seen in maps] == [True, True, False]


@pytest.mark.parametrize("missing", CAMERAS)
def test_xvla_does_not_see_a_missing_camera(missing: str) -> None:
    policy, batch = XVLA.seeded(), without(observation(3), missing)
    plain = actions(policy, batch)
    with attached(policy) as depth:
        assert torch.equal(actions(policy, batch), plain)
        [seen] = depth.read()
    assert len(seen) == 3
    assert seen.valid.any(dim=(1, 2)).all()


@every_policy
def test_a_blank_image_has_no_depth(tiny: TinyPolicy) -> None:
    batch = tiny.batch(2)
    if not batch.keys().isdisjoint(PREPROCESSED):
        pytest.skip("its preprocessor has the images by now")
    for camera in CAMERAS:
        batch[camera][1] = 0.0
    policy = tiny.seeded()
    with attached(policy) as depth:
        actions(policy, batch)
        for seen in depth.read():
            robots = seen.valid.any(dim=(1, 2)).unflatten(0, (2, -1))
            assert robots[0].all()
            assert not robots[1].any()


@each_of(MOLMOACT2)
def test_crops_that_fill_up_a_smaller_sample_have_no_depth(tiny: TinyPolicy) -> None:
    policy = tiny.seeded()
    large, small = torch.rand(2, 3, 80, 120), torch.rand(2, 3, 24, 24)
    inputs = molmo_inputs([*large, *small], 2, overlap_margins=[1, 1], max_crops=4)
    crops = inputs["image_num_crops"].unflatten(0, (2, -1)).sum(dim=1).tolist()
    assert crops[0] > crops[1]
    batch = {**observation(2), **inputs}
    plain = actions(policy, batch)
    with attached(policy) as depth:
        assert torch.equal(actions(policy, batch), plain)
        [seen] = depth.read()
    has_depth = seen.valid.any(dim=(1, 2)).unflatten(0, (2, -1))
    assert has_depth.shape == (2, crops[0])
    assert has_depth[0].all()
    assert has_depth[1].tolist() == [True] * crops[1] + [False] * (crops[0] - crops[1])


@every_policy
def test_depth_grows_older_while_queued_actions_are_served(tiny: TinyPolicy) -> None:
    policy, batch = tiny.seeded(), tiny.batch(1)
    policy.reset()
    ages, steps = [], []
    with attached(policy) as depth:
        assert depth.latest is None
        for _ in range(2 * CHUNK):
            policy.select_action(dict(batch))
            steps += [seen.step for seen in depth.read()]
            assert depth.latest is not None
            ages.append(depth.latest.age)
    assert ages == [0, 1, 2, 3, 0, 1, 2, 3]
    assert steps == [0] * tiny.calls + [CHUNK] * tiny.calls


@every_policy
def test_steps_without_a_read_are_counted_by_hand(tiny: TinyPolicy) -> None:
    policy, batch = tiny.seeded(), tiny.batch(1)
    policy.reset()
    with attached(policy) as depth:
        for _ in range(CHUNK + 1):
            policy.select_action(dict(batch))
            depth.step()
        policy.select_action(dict(batch))
        maps = depth.read()
        newest = depth.latest
    assert [seen.step for seen in maps] == [0] * tiny.calls + [CHUNK] * tiny.calls
    assert [seen.age for seen in maps] == [CHUNK + 1] * tiny.calls + [1] * tiny.calls
    assert newest is not None
    assert (newest.step, newest.age) == (CHUNK, 1)
    assert views(maps) == [*tiny.views, *tiny.views]


@every_policy
def test_a_new_episode_goes_on_counting(tiny: TinyPolicy) -> None:
    policy, batch = tiny.seeded(), tiny.batch(1)
    with attached(policy) as depth:
        for episode in range(2):
            actions(policy, batch)
            for seen in depth.read():
                assert (seen.step, seen.age) == (episode, 0)


@every_policy
def test_fresh_depth_between_chunks(tiny: TinyPolicy) -> None:
    """Refreshed by its tower alone, a policy goes on with the actions it has queued."""
    policy, batch = tiny.seeded(), tiny.batch(1)
    image = torch.rand(1, 3, *tiny.image_hw)

    def episode(depth: DepthAttachment | None) -> Tensor:
        policy.reset()
        taken = []
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            for step in range(2 * CHUNK):
                taken.append(policy.select_action(dict(batch)))
                if depth is not None and step % CHUNK == 1:
                    depth.read()
                    depth.refresh(image)
                    [fresh] = depth.read()
                    assert fresh.depth_m.shape == image[:, 0].shape
                    assert (fresh.age, fresh.camera) == (0, None)
                    assert depth.latest is not None
                    assert depth.latest.age == 0
        return torch.stack(taken)

    plain = episode(None)
    with attached(policy) as depth:
        assert torch.equal(episode(depth), plain)
