"""What the motion of a camera tells of the scale of depth, and what is believed of it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from stand_ins.room_video import CAMERA, place, room

from spaceclip_plugin.steady.following import OTHER_WAY, OTHERWISE, Told
from spaceclip_plugin.steady.grid import as_array, cell_means
from spaceclip_plugin.steady.motion import Rays
from spaceclip_plugin.steady.parallax import Parallax, detail_of
from spaceclip_plugin.steady.scale_belief import ScaleBelief

GRID = (56, 56)
RAYS = Rays.of(CAMERA, GRID)
SCALES = ScaleBelief().log_scales


def parallax(now: torch.Tensor, said_before: torch.Tensor, said_now: torch.Tensor, *, factor: float = 1.0) -> Parallax:
    """What is seen of a camera that went from `place()` to `now`, and is said to have gone elsewhere."""
    old, new = room(place()), room(now)
    details = detail_of(as_array(new.look().grey)), detail_of(as_array(old.look().grey))
    log_depth = as_array(cell_means((new.depth_m * factor)[None], GRID)[0].log())
    back = Told(said_now.numpy(), said_before.numpy())
    return Parallax.seen(details, RAYS, log_depth, back, SCALES)


@pytest.mark.parametrize("log_factor", [-0.5, 0.0, 0.3, 0.8])
@pytest.mark.parametrize("now", [place(0.08), place(0.05, pan=0.1), place(0.03, 0.12)])
def test_parallax_tells_the_factor(now: torch.Tensor, log_factor: float) -> None:
    seen = parallax(now, place(), now, factor=float(torch.tensor(log_factor).exp()))
    assert seen.doubt is None
    assert seen.mismatch is not None
    assert float(SCALES[seen.mismatch.argmin()]) == pytest.approx(log_factor, abs=0.11)  # the grid's step


def test_a_camera_that_only_turns_tells_nothing() -> None:
    seen = parallax(place(pan=0.1), place(), place(pan=0.1))
    assert seen.doubt is None
    assert seen.mismatch is None


def test_places_the_other_way_round_are_told_by_the_images() -> None:
    now = place(0.1, 0.05, pan=0.05)
    seen = parallax(now, torch.linalg.inv(place()), torch.linalg.inv(now))
    assert seen.doubt == OTHER_WAY
    assert seen.mismatch is None


def test_millimetres_are_told_by_the_images() -> None:
    now = place(0.1)
    thousand = now.clone()
    thousand[:3, 3] *= 1000
    seen = parallax(now, place(), thousand)
    assert seen.doubt == OTHERWISE
    assert seen.mismatch is None


def evidence(belief: ScaleBelief, at: float, sd: float) -> npt.NDArray[np.float64]:
    return -(((belief.log_scales - at) / sd) ** 2) / 2


def test_without_evidence_it_is_the_prior() -> None:
    assert ScaleBelief().moments(0.3) == pytest.approx((0.0, 0.3))


def test_evidence_moves_it_as_far_as_it_is_more_certain_than_the_prior() -> None:
    belief = ScaleBelief()
    belief.learn(evidence(belief, 0.4, 0.05))
    sure, doubtful = belief.moments(0.05), belief.moments(1.0)
    assert 0.03 < sure[0] < 0.1
    assert doubtful[0] == pytest.approx(0.4, abs=0.02)
    assert doubtful[1] >= 0.09  # no amount of it takes what is systematic away
    for _ in range(200):
        belief.learn(evidence(belief, 0.4, 0.05))
    assert belief.moments(1.0)[1] >= 0.09


def test_it_follows_depth_that_is_made_larger() -> None:
    belief = ScaleBelief()
    belief.learn(evidence(belief, 0.2, 0.05))
    mean, sd = belief.moments(10.0)
    for _ in range(12):
        belief.shift(0.1)  # beyond the middle of its grid, which moves along
    moved, moved_sd = belief.moments(10.0)
    assert moved - mean == pytest.approx(1.2, abs=0.03)
    assert moved_sd == pytest.approx(sd, abs=0.03)


def test_what_has_changed_is_learnt_anew() -> None:
    belief = ScaleBelief()
    for _ in range(50):
        belief.learn(evidence(belief, -0.3, 0.2))
    for _ in range(50):
        belief.learn(evidence(belief, 0.3, 0.2))
    assert belief.moments(1.0)[0] > 0.2


def test_cameras_of_a_rig_share_what_they_learn_give_or_take() -> None:
    own, other = ScaleBelief(), ScaleBelief()
    other.learn(evidence(other, 0.5, 0.05))
    mean, sd = own.moments(0.5, [other])
    assert 0.4 < mean < 0.5
    assert 0.12 < sd < 0.2  # a tenth apart, a tenth systematic
    assert own.moments(0.5) == pytest.approx((0.0, 0.5))
