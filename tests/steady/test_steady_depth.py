"""Depth of video: what earlier frames do for it, when it begins anew, what is doubted, and that it can be kept."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from stand_ins.room_video import SIDE, RoomFrame, place, room

from spaceclip_plugin.depth import DepthMap, Intrinsics
from spaceclip_plugin.errors import ConfigError
from spaceclip_plugin.steady import Look, Steadiness, SteadyDepth
from spaceclip_plugin.steady.following import OTHER_WAY, OTHERWISE
from spaceclip_plugin.steady.steady_depth import FIRST, NOT_FINITE
from spaceclip_plugin.steady.video import CAMERA, CUT, NO_DEPTH, PAUSED

FACTORS = (1.2, 0.9, 1.1, 1.3, 0.95, 1.15, 1.0, 1.25)  # of a head whose scale jumps from frame to frame
WAY = [place(0.03 * index, 0.02 * index, pan=-0.02 * index) for index in range(len(FACTORS))]


@pytest.fixture(scope="module")
def video() -> list[RoomFrame]:
    return [room(at) for at in WAY]


def told(depth: DepthMap) -> Steadiness:
    [steadiness] = depth.steady
    return steadiness


def steadied(frames: list[RoomFrame], places: list[Any] | None = None, **seen: Any) -> list[DepthMap]:
    steady = SteadyDepth()
    places = [None] * len(frames) if places is None else places
    return [
        steady.update(frame.seen(step, factor=factor, **seen), frame.look(), at)
        for step, (frame, factor, at) in enumerate(zip(frames, FACTORS, places, strict=False))
    ]


def errors(frames: list[RoomFrame], maps: list[DepthMap]) -> torch.Tensor:
    """(N,) mean ln of predicted over true."""
    pairs = zip(frames, maps, strict=True)
    return torch.stack([(depth.depth_m[0] / frame.depth_m).log().mean() for frame, depth in pairs])


def jumps(values: torch.Tensor) -> float:
    return float(values.diff().abs().mean())


@pytest.mark.parametrize("known", [True, False], ids=["lens known", "lens unknown"])
@pytest.mark.parametrize("placed", [True, False], ids=["places", "images alone"])
def test_a_scale_that_jumps_is_calm_and_no_less_true(video: list[RoomFrame], placed: bool, known: bool) -> None:
    alone = torch.tensor(FACTORS).log()
    found = errors(video, steadied(video, list(WAY) if placed else None, known=known))
    assert jumps(found) < 0.35 * jumps(alone)
    assert float(found.abs().mean()) < float(alone.abs().mean())


def test_a_camera_at_rest_loses_its_flicker(video: list[RoomFrame]) -> None:
    maps = steadied([video[0]] * len(FACTORS))
    assert jumps(errors([video[0]] * len(FACTORS), maps)) < 0.35 * jumps(torch.tensor(FACTORS).log())
    assert all(told(depth).carried > 0.8 for depth in maps[1:])


def test_places_tell_the_scale(video: list[RoomFrame]) -> None:
    steady = SteadyDepth()
    for step, frame in enumerate(video):
        depth = steady.update(frame.seen(step, factor=1.5, relative_sd=0.4), frame.look(), frame.place)
    without = steadied(video, relative_sd=0.4)[-1]
    [error] = errors([video[-1]], [depth])
    assert float(error) < math.log(1.2)  # of ln 1.5
    assert told(depth).log_scale == pytest.approx(float(error) - math.log(1.5), abs=0.03)
    assert told(depth).log_scale_sd < told(without).log_scale_sd


def test_what_it_did_is_told(video: list[RoomFrame]) -> None:
    first, second, *_ = steadied(video)
    assert (told(first).frames, told(first).reset, told(first).carried) == (1, FIRST, 0.0)
    assert (told(second).frames, told(second).reset) == (2, None)
    assert told(second).carried > 0.5
    assert torch.equal(told(second).alone_m, video[1].seen(1, factor=FACTORS[1]).depth_m)
    torch.testing.assert_close(first.depth_m, video[0].seen(0, factor=FACTORS[0]).depth_m)


def test_age_familiarity_and_camera_are_the_frames_own(video: list[RoomFrame]) -> None:
    steady = SteadyDepth()
    for step in range(2):
        depth = dataclasses.replace(video[step].seen(step), familiarity=torch.tensor([0.4]), age=3)
        out = steady.update(depth, video[step].look())
    assert out.familiarity is not None
    assert out.familiarity.tolist() == pytest.approx([0.4])
    assert (out.age, out.camera, out.step, out.intrinsics) == (3, "wrist", 1, depth.intrinsics)
    assert torch.equal(out.valid, depth.valid)


def test_a_cut_begins_anew_at_once(video: list[RoomFrame]) -> None:
    steady = SteadyDepth()
    for step in range(3):
        steady.update(video[step].seen(step), video[step].look())
    elsewhere = room(place(), paint=3)
    depth = steady.update(elsewhere.seen(3, factor=0.8), elsewhere.look())
    assert (told(depth).reset, told(depth).frames) == (CUT, 1)
    torch.testing.assert_close(depth.depth_m, elsewhere.seen(3, factor=0.8).depth_m)


@pytest.mark.parametrize("step", [1000, 0], ids=["a long pause", "back"])
def test_a_stream_that_paused_or_went_back_begins_anew(video: list[RoomFrame], step: int) -> None:
    steady = SteadyDepth()
    for at in range(3):
        steady.update(video[at].seen(at + 1), video[at].look())
    assert told(steady.update(video[2].seen(step), video[2].look())).reset == PAUSED


def test_another_lens_or_size_begins_anew(video: list[RoomFrame]) -> None:
    steady, frame = SteadyDepth(), video[0]
    steady.update(frame.seen(0), frame.look())
    zoomed = dataclasses.replace(frame.seen(1), intrinsics=Intrinsics(300.0, 300.0, 112.0, 112.0, (SIDE, SIDE)))
    assert told(steady.update(zoomed, frame.look())).reset == CAMERA
    few = torch.ones(1, 14, 14)
    smaller = dataclasses.replace(zoomed, depth_m=few, valid=few > 0, uncertainty_m=few / 5, step=2)
    assert told(steady.update(smaller, frame.look())).reset == CAMERA


def test_an_image_of_nan_is_given_alone_and_spoils_nothing(video: list[RoomFrame]) -> None:
    steady, frame = SteadyDepth(), video[0]
    steady.update(frame.seen(0), frame.look())
    look = frame.look()
    broken = Look(torch.full_like(look.grey, torch.nan), look.tokens)
    depth = steady.update(frame.seen(1, factor=1.1), broken)
    assert told(depth).reset == NOT_FINITE
    torch.testing.assert_close(depth.depth_m, frame.seen(1, factor=1.1).depth_m)
    assert told(steady.update(frame.seen(2), look)).reset == FIRST


def test_a_frame_without_depth_begins_anew(video: list[RoomFrame]) -> None:
    steady, frame = SteadyDepth(), video[0]
    for step in range(3):
        depth = frame.seen(step)
        if step == 1:
            depth = dataclasses.replace(depth, valid=torch.zeros_like(depth.valid))
        out = steady.update(depth, frame.look())
        assert out.depth_m.isfinite().all()
        assert told(out).reset in ((FIRST, NO_DEPTH, CUT)[step], CUT, NO_DEPTH)


def wrong(at: torch.Tensor, how: str, index: int) -> torch.Tensor:
    if how == "the other way round":
        return torch.linalg.inv(at)
    changed = at.clone()
    if how == "millimetres":
        changed[:3, 3] *= 1000
    elif how == "jumping" and index % 2:
        changed[:3, 3] += 2.0
    elif how == "OpenGL axes":
        changed[:3, 1:3] *= -1
    return changed


@pytest.mark.parametrize("how", ["the other way round", "millimetres", "jumping", "OpenGL axes"])
def test_wrong_places_are_doubted_and_do_no_harm(video: list[RoomFrame], how: str) -> None:
    alone = torch.tensor(FACTORS).log()
    maps = steadied(video, [wrong(at, how, index) for index, at in enumerate(WAY)])
    found = errors(video, maps)
    doubts = {told(depth).doubt for depth in maps} - {None}
    assert doubts <= {OTHERWISE, OTHER_WAY}
    assert doubts
    if how == "the other way round":
        assert OTHER_WAY in doubts
    assert jumps(found) < 0.5 * jumps(alone)
    assert float(found.abs().mean()) < 1.1 * float(alone.abs().mean())


def test_right_places_are_not_doubted(video: list[RoomFrame]) -> None:
    assert {told(depth).doubt for depth in steadied(video, list(WAY))} == {None}


def test_places_that_are_missing_now_and_then_are_done_without(video: list[RoomFrame]) -> None:
    places = [at if index % 2 else None for index, at in enumerate(WAY)]
    maps = steadied(video, places)
    assert all(told(depth).doubt is None and (told(depth).reset in (None, FIRST)) for depth in maps)
    assert jumps(errors(video, maps)) < 0.4 * jumps(torch.tensor(FACTORS).log())


@pytest.mark.parametrize(
    "bad",
    [
        torch.eye(3),
        torch.eye(4) * 2,
        torch.diag(torch.tensor([1.0, 1.0, -1.0, 1.0])),
        torch.full((4, 4), torch.nan),
        "here",
        [[1.0, 0.0], [0.0]],
    ],
)
def test_a_place_that_is_not_rigid_is_refused_before_anything_is_taken(video: list[RoomFrame], bad: Any) -> None:
    steady = SteadyDepth()
    with pytest.raises(ConfigError, match="place"):
        steady.update(video[0].seen(0), video[0].look(), bad)
    assert steady.state_dict() == {"videos": []}


def test_a_block_that_is_moved_is_where_it_is_within_two_frames() -> None:
    steady, at = SteadyDepth(), place()
    for step in range(6):
        frame = room(at, block_m=-0.4)
        steady.update(frame.seen(step), frame.look(), at)
    for step in (6, 7):
        frame = room(at, block_m=0.4)
        depth = steady.update(frame.seen(step), frame.look(), at)
    assert told(depth).reset is None
    off = (depth.depth_m[0] / frame.depth_m).log().abs()
    changed = room(at, block_m=-0.4).depth_m != frame.depth_m
    assert off[changed].mean() < 0.02
    assert off[~changed].mean() < 0.02


def test_edges_are_those_of_the_newest_frame() -> None:
    steady, at = SteadyDepth(), place()
    frame = room(at, block_m=0.0)
    for step, factor in enumerate(FACTORS):
        depth = steady.update(frame.seen(step, factor=factor), frame.look(), at)
    off = (depth.depth_m[0] / frame.depth_m).log()
    assert float(off.max() - off.min()) < 0.15  # a smeared edge would be off by ln(3 / 1.6)


def test_cameras_are_apart(video: list[RoomFrame]) -> None:
    steady, other = SteadyDepth(), room(place(), paint=5)
    left, right = (frame.seen(0) for frame in (video[0], other))
    for step in range(3):
        one = steady.update(dataclasses.replace(left, camera="left", step=step), video[0].look())
        two = steady.update(dataclasses.replace(right, camera="right", step=step), other.look())
    assert told(one).frames == told(two).frames == 3
    steady.reset("left")
    assert told(steady.update(dataclasses.replace(left, camera="left", step=3), video[0].look())).reset == FIRST
    assert told(steady.update(dataclasses.replace(right, camera="right", step=3), other.look())).frames == 4
    steady.reset()
    assert told(steady.update(dataclasses.replace(right, camera="right", step=4), other.look())).reset == FIRST


def test_each_image_of_a_batch_is_a_video_of_its_own(video: list[RoomFrame]) -> None:
    together, apart = SteadyDepth(), [SteadyDepth(), SteadyDepth()]
    for step in range(3):
        frames = (video[step], room(WAY[step], paint=2))
        maps = [frame.seen(step, factor=FACTORS[step + index]) for index, frame in enumerate(frames)]
        looks = [frame.look() for frame in frames]
        both = dataclasses.replace(
            maps[0],
            **{name: torch.cat([getattr(one, name) for one in maps]) for name in ("depth_m", "valid", "uncertainty_m")},
        )
        look = Look(torch.cat([one.grey for one in looks]), torch.cat([one.tokens for one in looks]))
        whole = together.update(both, look)
        singles = [one.update(depth, seen) for one, depth, seen in zip(apart, maps, looks, strict=True)]
    assert len(whole.steady) == 2
    for index, single in enumerate(singles):
        torch.testing.assert_close(whole[index].depth_m, single.depth_m, rtol=1e-5, atol=1e-5)
        assert told(whole[index]).frames == 3


def test_each_image_of_a_batch_has_a_place_of_its_own(video: list[RoomFrame]) -> None:
    steady, frame = SteadyDepth(), video[0]
    one, look = frame.seen(0), frame.look()
    both = dataclasses.replace(
        one, **{name: getattr(one, name).repeat(2, 1, 1) for name in ("depth_m", "valid", "uncertainty_m")}
    )
    looks = Look(look.grey.repeat(2, 1, 1), look.tokens.repeat(2, 1, 1, 1))
    steady.update(both, looks, torch.stack([WAY[0], WAY[1]]))
    assert [torch.equal(kept["place"], at) for kept, at in zip(steady.state_dict()["videos"], WAY, strict=False)] == [
        True,
        True,
    ]
    with pytest.raises(ConfigError, match="3 places"):
        steady.update(both, looks, torch.stack([WAY[0]] * 3))


def test_a_look_of_other_images_is_refused(video: list[RoomFrame]) -> None:
    look = video[0].look()
    with pytest.raises(ConfigError, match="2 looks"):
        SteadyDepth().update(video[0].seen(0), Look(look.grey.repeat(2, 1, 1), look.tokens.repeat(2, 1, 1, 1)))
    with pytest.raises(ConfigError, match="hidden states"):
        Look.of(torch.zeros(1, 3, 8, 8), torch.zeros(2, 4, 2, 2))


def test_the_same_frames_give_the_same_bits(video: list[RoomFrame]) -> None:
    one, two = (steadied(video, list(WAY)) for _ in range(2))
    for first, second in zip(one, two, strict=True):
        assert torch.equal(first.depth_m, second.depth_m)
        assert first.uncertainty_m is not None
        assert second.uncertainty_m is not None
        assert torch.equal(first.uncertainty_m, second.uncertainty_m)


@pytest.mark.parametrize("placed", [True, False])
def test_it_goes_on_bit_for_bit_from_what_was_saved(video: list[RoomFrame], placed: bool, tmp_path: Any) -> None:
    expected = steadied(video, list(WAY) if placed else None)
    steady = SteadyDepth()
    for step, frame in enumerate(video):
        at = frame.place if placed else None
        if step == 4:
            torch.save(steady.state_dict(), tmp_path / "steady.pt")
            steady = SteadyDepth()
            steady.load_state_dict(torch.load(tmp_path / "steady.pt", weights_only=True))
        depth = steady.update(frame.seen(step, factor=FACTORS[step]), frame.look(), at)
        assert torch.equal(depth.depth_m, expected[step].depth_m)
        assert told(depth).frames == step + 1


@pytest.mark.parametrize("state", [{}, {"videos": [{"name": "wrist"}]}, {"videos": 3}, "state", None])
def test_what_is_no_state_is_refused_and_changes_nothing(video: list[RoomFrame], state: Any) -> None:
    steady = SteadyDepth()
    steady.update(video[0].seen(0), video[0].look())
    with pytest.raises(ConfigError, match="state_dict"):
        steady.load_state_dict(state)
    assert told(steady.update(video[0].seen(1), video[0].look())).frames == 2


def test_the_hosts_autocast_changes_nothing(video: list[RoomFrame]) -> None:
    expected = steadied(video[:3])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = steadied(video[:3])
    assert all(torch.equal(one.depth_m, two.depth_m) for one, two in zip(expected, found, strict=True))


def test_padding_shows_no_camera_at_rest(video: list[RoomFrame]) -> None:
    """Bars that never change must not pass for a scene that does not."""
    steady = SteadyDepth()
    bars = slice(60, 164)
    for step, frame in enumerate((video[0], room(place(), paint=3))):
        pixels = torch.zeros_like(frame.pixels)
        pixels[:, bars] = frame.pixels[:, bars]
        depth = frame.seen(step)
        shown = torch.zeros_like(depth.valid)
        shown[:, bars] = True
        look = dataclasses.replace(frame, pixels=pixels).look()
        out = steady.update(dataclasses.replace(depth, valid=shown), look)
    assert told(out).reset == CUT
