"""How steady depth is over a video: against a plain reading of the definitions, and on planes and an occluder."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from spaceclip_plugin.depth import Intrinsics
from spaceclip_plugin.errors import ConfigError, DataError
from spaceclip_plugin.evaluation import VideoMetrics, video_metrics
from spaceclip_plugin.evaluation.video import seen_from

HW = (24, 32)
CAMERA = Intrinsics(fx_px=30.0, fy_px=28.0, cx_px=16.5, cy_px=11.0, image_hw=HW)


def at(x: float = 0.0, y: float = 0.0, z: float = 0.0, turn: float = 0.0) -> Tensor:
    """A camera's place, turned about its y axis."""
    place = torch.eye(4, dtype=torch.float64)
    cos, sin = math.cos(turn), math.sin(turn)
    place[:3, :3] = torch.tensor([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]])
    place[:3, 3] = torch.tensor([x, y, z])
    return place


def plain(prediction: Tensor, target: Tensor, valid: Tensor, places: Tensor) -> tuple[float, float]:
    """Flicker and TAE pixel by pixel."""
    height, width = HW

    def carried(depth: Tensor, mask: Tensor, onward: Tensor) -> dict[tuple[int, int], tuple[float, int, int]]:
        buffer: dict[tuple[int, int], tuple[float, int, int]] = {}
        for row in range(height):
            for column in range(width):
                if not mask[row, column]:
                    continue
                z = float(depth[row, column])
                point = torch.tensor(
                    [
                        (column + 0.5 - CAMERA.cx_px) / CAMERA.fx_px * z,
                        (row + 0.5 - CAMERA.cy_px) / CAMERA.fy_px * z,
                        z,
                    ],
                    dtype=torch.float64,
                )
                x, y, far = (onward[:3, :3] @ point + onward[:3, 3]).tolist()
                if far <= 0:
                    continue
                there = (
                    math.floor(y / far * CAMERA.fy_px + CAMERA.cy_px),
                    math.floor(x / far * CAMERA.fx_px + CAMERA.cx_px),
                )
                inside = 0 <= there[0] < height and 0 <= there[1] < width
                if inside and (there not in buffer or far < buffer[there][0]):
                    buffer[there] = (far, row, column)
        return buffer

    flicker, tae = [], []
    for one in range(len(prediction) - 1):
        two, changes = one + 1, []
        onward = torch.linalg.inv(places[two]) @ places[one]
        for there, (far, row, column) in carried(target[one], valid[one], onward).items():
            true = float(target[two][there])
            if valid[two][there] and abs(far - true) < 0.05 * true:
                before = math.log(prediction[one, row, column] / target[one, row, column])
                changes.append(abs(math.log(prediction[two][there] / true) - before))
        flicker.append(sum(changes) / len(changes))
        for (source, to), motion in (((one, two), onward), ((two, one), torch.linalg.inv(onward))):
            errors = [
                abs(far / float(prediction[to][there]) - 1)
                for there, (far, *_) in carried(prediction[source], valid[source], motion).items()
                if valid[to][there]
            ]
            tae.append(sum(errors) / len(errors))
    return sum(flicker) / len(flicker), sum(tae) / len(tae)


def measured(prediction: Tensor, target: Tensor, places: Tensor, valid: Tensor | None = None) -> VideoMetrics:
    mask = torch.ones_like(target) > 0 if valid is None else valid
    return video_metrics(prediction, target, valid=mask, camera_to_world=places, intrinsics=CAMERA)


def test_it_is_what_the_definitions_say() -> None:
    generator = torch.Generator().manual_seed(0)
    target = 1.0 + 2.0 * torch.rand(3, *HW, generator=generator, dtype=torch.float64)
    prediction = target * torch.exp(0.2 * torch.randn(3, *HW, generator=generator, dtype=torch.float64))
    valid = torch.rand(3, *HW, generator=generator) > 0.2
    places = torch.stack([at(), at(0.05, 0.02, 0.1, 0.05), at(0.1, -0.02, 0.0, -0.04)])
    found = measured(prediction, target, places, valid)
    flicker, tae = plain(prediction, target, valid, places)
    assert found.flicker == pytest.approx(flicker, rel=1e-9)
    assert found.tae == pytest.approx(tae, rel=1e-9)
    assert 0 < found.co_visible < 0.5  # the truth is noise: few points fall where the next frame sees their depth


def test_a_plane_that_a_camera_nears_and_that_is_always_read_too_far_alike_does_not_flicker() -> None:
    places = torch.stack([at(z=0.1 * step) for step in range(4)])
    target = torch.stack([torch.full(HW, 2.0 - 0.1 * step, dtype=torch.float64) for step in range(4)])
    found = measured(1.3 * target, target, places)
    assert found.abs_rel == pytest.approx(0.3)
    assert found.flicker == pytest.approx(0.0, abs=1e-12)
    # 2.6 m less 10 cm is 2.5 m where 2.47 m is said: TAE sees a wrong scale once the camera moves along its axis.
    both = [
        abs((1.3 * far - 0.1) / (1.3 * (far - 0.1)) - 1) / 2 + abs((1.3 * (far - 0.1) + 0.1) / (1.3 * far) - 1) / 2
        for far in (2.0, 1.9, 1.8)
    ]
    assert found.tae == pytest.approx(sum(both) / 3, rel=1e-6)


def test_right_depth_has_no_error_however_the_camera_passes_a_plane() -> None:
    places = torch.stack([at(x=0.2 * step) for step in range(3)])
    target = torch.full((3, *HW), 2.0, dtype=torch.float64)
    found = measured(target, target, places)
    assert (found.abs_rel, found.flicker, found.tae) == (0.0, 0.0, 0.0)
    assert 0.85 < found.co_visible < 0.95  # 3 of 32 columns come into sight


def test_a_pattern_that_stays_in_the_image_flickers_on_what_passes() -> None:
    """A head that errs by where in the image it looks: a column is worth one factor, and the wall moves by columns."""
    step = 2.0 / CAMERA.fx_px * 2.0  # two columns at 2 m
    places = torch.stack([at(x=step * at_frame) for at_frame in range(2)])
    target = torch.full((2, *HW), 2.0, dtype=torch.float64)
    factors = torch.exp(0.01 * torch.arange(HW[1], dtype=torch.float64)).expand(2, *HW)
    assert measured(factors * target, target, places).flicker == pytest.approx(0.02)
    assert measured(factors * target, target, torch.stack([at(), at()])).flicker == 0.0


def occluded() -> tuple[Tensor, Tensor]:
    """A block at 1 m before a wall at 3 m: the camera moves to the right by four of the block's columns."""
    step = 4.0 / CAMERA.fx_px
    target = torch.full((2, *HW), 3.0, dtype=torch.float64)
    target[0, 8:16, 12:20] = 1.0
    target[1, 8:16, 8:16] = 1.0
    return target, torch.stack([at(), at(x=step)])


def test_what_an_occluder_hides_or_bares_does_not_count() -> None:
    target, places = occluded()
    deep, index = seen_from(target[0], torch.ones(HW) > 0, torch.linalg.inv(places[1]) @ places[0], CAMERA)
    assert (deep[8:16, 8:16] == 1.0).all()
    assert (index[10, 8:16] - (10 * HW[1] + torch.arange(12, 20))).abs().max() == 0
    # Columns 9 to 11 of the wall, which passes by 4/3 of a column, go behind the block.
    hidden = target.clone()
    hidden[0, 8:16, 9:12] = 9.0
    assert measured(hidden, target, places).flicker == 0.0
    hidden[0, 8:16, 8] = 9.0
    assert measured(hidden, target, places).flicker > 0.0
    seen_twice = (index >= 0) & ((deep - target[1]).abs() < 0.05 * target[1])
    # What it bares: wherever nothing of the first frame falls, the second may say what it likes.
    bared = target.clone()
    bared[1][~seen_twice] *= 5.0
    assert measured(bared, target, places).flicker == 0.0


def test_what_is_not_valid_does_not_count_in_either_frame() -> None:
    target, places = occluded()
    valid = torch.ones_like(target) > 0
    prediction = target.clone()
    valid[0, :, :10], prediction[0, :, :10] = False, torch.nan
    valid[1, 20:], prediction[1, 20:] = False, 0.0
    found = measured(prediction, target, places, valid)
    assert (found.abs_rel, found.flicker) == (0.0, 0.0)


def test_a_pair_that_shares_nothing_is_passed_over_and_a_video_of_such_is_refused() -> None:
    target = torch.full((3, *HW), 2.0, dtype=torch.float64)
    factors = torch.tensor([1.0, 1.1, 5.0], dtype=torch.float64)[:, None, None]
    away = at(x=100.0)
    found = measured(factors * target, target, torch.stack([at(), at(), away]))
    assert found.flicker == pytest.approx(math.log(1.1))
    with pytest.raises(DataError, match="see the same"):
        measured(factors * target, target, torch.stack([at(), away, at()]))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"prediction_m": torch.ones(1, 4, 5)}, "two frames"),
        ({"prediction_m": torch.ones(4, 5)}, "two frames"),
        ({"prediction_m": torch.ones(2, 4, 6)}, r"\(2, 4, 6\)"),
        ({"camera_to_world": torch.eye(4).repeat(3, 1, 1)}, r"\(3, 4, 4\)"),
        ({"valid": torch.zeros(2, 4, 5) > 0}, "no valid pixel"),
        ({"target_m": torch.zeros(2, 4, 5)}, "finite positive"),
    ],
)
def test_what_is_no_video_is_refused(changes: dict[str, Any], named: str) -> None:
    maps = {name: torch.ones(2, 4, 5) for name in ("prediction_m", "target_m")}
    given: dict[str, Any] = {**maps, "valid": torch.ones(2, 4, 5) > 0, "camera_to_world": torch.eye(4).repeat(2, 1, 1)}
    with pytest.raises(DataError, match=named):
        video_metrics(**(given | changes), intrinsics=CAMERA)


def test_a_place_that_is_no_rigid_motion_is_refused() -> None:
    target, _ = occluded()
    with pytest.raises(ConfigError, match="rigid"):
        measured(target, target, torch.stack([at(), 2 * at()]))
