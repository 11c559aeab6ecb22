"""What the tables of steady depth are made of: ways, wrong places, recovery, and what counts as a target met."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import steady_picture
import steady_tables
import steady_ways
import torch
from steady import labelled
from steady_clips import HOLOLENS, SIDE, Seen

from spaceclip_plugin import DepthMap, Intrinsics
from spaceclip_plugin.depth.pose import checked_pose
from spaceclip_plugin.steady import Look
from spaceclip_worlds.render.tabletop_clip import TabletopClip

HW = (48, 48)


def seen(factors: list[float], *, moved: bool = False) -> Seen:
    """A still tabletop, read too far by those factors."""
    [frame] = TabletopClip(1, height_px=HW[0], width_px=HW[1]).frames()
    truth = torch.from_numpy(frame.depth_m)
    valid = truth.isfinite()
    truth = truth.where(valid, 1.0)
    pixels = torch.from_numpy(frame.image.copy()).permute(2, 0, 1)[None].float() / 255
    look = Look.of(pixels, torch.randn(1, 8, 6, 6, generator=torch.Generator().manual_seed(0)))
    depths = [
        DepthMap(
            factor * truth[None],
            valid[None],
            camera="table",
            frame=number,
            step=number,
            image_hw=HW,
            trained=True,
            uncertainty_m=0.2 * truth[None],
            intrinsics=frame.intrinsics,
        )
        for number, factor in enumerate(factors)
    ]
    count = len(factors)
    there = torch.full((count, *HW), moved)
    place = torch.from_numpy(frame.camera_to_world)
    return Seen(
        depths, [look] * count, truth.expand(count, *HW), valid.expand(count, *HW), there, place.expand(count, 4, 4),
        frame.intrinsics,
    )  # fmt: skip


def test_every_way_is_measured_and_steady_depth_flickers_less() -> None:
    found = steady_ways.figures(seen([1.0, 1.2, 1.0, 1.2, 1.0, 1.2]))
    assert list(found) == list(steady_ways.WAYS)
    assert found[steady_ways.ALONE]["abs_rel"] == pytest.approx(0.1, abs=1e-4)
    assert found[steady_ways.ALONE]["flicker"] == pytest.approx(np.log(1.2), abs=1e-4)
    assert found[steady_ways.CONSTANT]["flicker"] == pytest.approx(0.0, abs=1e-6)
    for way in (steady_ways.WITHOUT, steady_ways.WITH):
        assert found[way]["flicker"] < 0.6 * found[steady_ways.ALONE]["flicker"]
        assert (found[way]["resets"], found[way]["doubts"]) == ({}, {})
        assert set(found[way]["covered"]) == {"0.5", "0.9"}


def test_the_running_mean_keeps_seven_tenths_of_what_was() -> None:
    frames = [torch.full((1, 1), metres) for metres in (1.0, np.e, np.e)]
    assert [round(float(one.log()), 6) for one in steady_ways.running_mean(frames)] == [0.0, 0.3, 0.51]


@pytest.mark.parametrize("kind", steady_ways.BAD)
def test_wrong_places_are_rigid_and_others_than_the_true_ones(kind: str) -> None:
    places = torch.eye(4, dtype=torch.float64).repeat(4, 1, 1)
    places[:, :3, 3] = torch.arange(12, dtype=torch.float64).reshape(4, 3)
    wrong = steady_ways.BAD[kind](places)
    assert len(wrong) == 4
    for place in wrong:
        assert place is None or checked_pose(place) is not None
    assert any(place is None or not torch.equal(place, true) for place, true in zip(wrong, places, strict=True))


def test_wrong_places_do_no_harm_to_a_camera_at_rest() -> None:
    flickering = seen([1.0, 1.2, 1.0, 1.2])
    found = steady_ways.with_bad_places(flickering)
    own = steady_ways.figures(flickering)[steady_ways.ALONE]
    assert set(found) == set(steady_ways.BAD)
    assert all(one["abs_rel"] <= 1.05 * own["abs_rel"] for one in found.values())


def test_recovery_is_over_the_frames_own_error() -> None:
    first, second = seen([1.2] * 4), seen([1.1] * 3)
    cut = steady_ways.after_a_cut(first, second, places=True, frames=3)
    assert len(cut.after) == 3
    assert cut.after[0] > 1.2  # it looks the same, and so it goes on: at 1.2 times the truth where the frame says 1.1
    assert cut.resets == {}
    ratios = steady_ways.where_things_moved(seen([1.1] * 6, moved=True), places=False, frames=2)
    assert ratios is not None
    assert ratios[0] == pytest.approx([1.0, 1.0], abs=0.01)
    assert ratios[1] == 4
    assert steady_ways.where_things_moved(seen([1.1] * 6), places=False, frames=2) is None


@pytest.mark.parametrize(
    ("head", "data", "expected"),
    [
        ("runs/tap-mixer_s2", "nyu", ("tap-mixer of NYU", 2)),
        ("runs/fine_s0/head", "metaworld", ("fine of Meta-World", 0)),
        ("embedded:nyu-deit-tiny", "nyu", ("embedded:nyu-deit-tiny", 0)),
    ],
)
def test_a_head_is_called_by_its_run(head: str, data: str, expected: tuple[str, int]) -> None:
    assert labelled(head, data) == expected


def entry(abs_rel: float, flicker: float, covered: float = 0.9, **about: Any) -> dict[str, Any]:
    alone = {"abs_rel": 0.2, "flicker": 0.1, "tae": 0.1, "co_visible": 1.0, "covered": {"0.5": 0.5, "0.9": 0.9}}
    steady = {
        "abs_rel": 0.2 * abs_rel, "flicker": 0.1 * flicker, "tae": 0.1, "co_visible": 1.0,
        "covered": {"0.5": 0.5, "0.9": covered},
    }  # fmt: skip
    ways = dict.fromkeys(steady_ways.WAYS, alone) | {steady_ways.WITH: steady, steady_ways.WITHOUT: steady}
    return {"clip": HOLOLENS, "head": "a", "seed": 0, "stride": 1, "frames": 9, "ways": ways} | about


@pytest.mark.parametrize(
    ("changes", "missed"),
    [
        ({}, set()),
        ({"flicker": 0.31}, {"flicker over per frame, with places, the headset's clip"}),
        ({"abs_rel": 0.96}, {"AbsRel over per frame, with places, the headset's clip"}),
        ({"covered": 0.96}, {f"intervals of 50 and 90 % off by, {way} places" for way in ("with", "without")}),
    ],
)
def test_a_target_is_met_or_is_not(changes: dict[str, float], missed: set[str]) -> None:
    good = entry(0.9, 0.2, clip="rendered")
    wrong = {"kinds": {kind: {"abs_rel": 0.2, "doubts": {}, "resets": {}} for kind in steady_ways.BAD}}
    record = {
        "clips": [good, entry(**({"abs_rel": 0.9, "flicker": 0.2} | changes))],
        "bad_places": [good | wrong],
        "cuts": [{"cut": "here", "head": "a", "places": True, "after": [2.0, 1.5, 1.0, 1.0, 1.0], "resets": {}}],
        "moved": [{"clip": "rendered", "head": "a", "places": True, "after": [2.0, 1.5, 1.0, 1.0, 1.0], "frames": 3}],
    }
    assert {what for what, *_, met in steady_tables.targets(record) if not met} == missed
    assert steady_tables.table(record).count("\n\n") == 3


def test_seeds_are_averaged() -> None:
    [both] = steady_tables.over_seeds([entry(0.8, 0.2), entry(1.0, 0.4, seed=1)])
    assert both["seeds"] == 2
    assert steady_tables.ratio(both, steady_ways.WITH, "abs_rel") == pytest.approx(0.9)
    assert steady_tables.ratio(both, steady_ways.WITH, "flicker") == pytest.approx(0.3)


def test_the_picture_has_a_panel_for_every_way_and_one_for_the_truth() -> None:
    one = torch.rand(3, SIDE, SIDE) + 1
    camera = Intrinsics(200.0, 200.0, 112.0, 112.0, (SIDE, SIDE))
    depths = [DepthMap(one[:1], one[:1] > 0, camera=None, frame=0, image_hw=(SIDE, SIDE), trained=True)] * 3
    clip = Seen(depths, [], one, one > 0, one < 0, torch.eye(4).repeat(3, 1, 1), camera)
    picture = steady_picture.time_slice(clip, {"as it is": list(one), "halved": list(one / 2)})
    assert picture.shape == (steady_picture.TITLE_PX + 3 * steady_picture.FRAME_PX, 3 * SIDE + 2 * 8, 3)
    width, top = SIDE + steady_picture.GAP_PX, steady_picture.TITLE_PX
    assert (picture[top:, :SIDE] == picture[top:, 2 * width : 2 * width + SIDE]).all()
    assert (picture[top:, :SIDE] != picture[top:, width : width + SIDE]).any()
