"""One policy with two cameras: depth by name, one world, and a block that one camera cannot see."""

from __future__ import annotations

import math
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

from spaceclip_plugin import attach_depth_head
from spaceclip_plugin.errors import CaptureError, ConfigError
from spaceclip_worlds.arm.embedded import load_arm_head
from spaceclip_worlds.arm.episode import ALIGNED, PREDICTED, TABLE, TRUE
from spaceclip_worlds.arm.observation import locate_block, red_pixels
from spaceclip_worlds.arm.policy import load_arm_policy
from spaceclip_worlds.arm.two_camera_loop import agreement_m, find_block, look, score
from spaceclip_worlds.arm.two_cameras import BLOCK_HALF_M, SIDES, TwoCameraTable

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "two_cameras.py"


def test_the_screen_mostly_hides_the_block_from_one_camera_and_never_from_both() -> None:
    seen = []
    for seed in range(40):
        table = TwoCameraTable(seed)
        seen.append(tuple(int(red_pixels(table.observe(side).image).sum()) >= 5 for side in SIDES))
    assert (False, False) not in seen
    assert seen.count((True, False)) >= 10
    assert seen.count((False, True)) >= 10
    assert 1 <= seen.count((True, True)) <= 10


def test_true_depth_of_both_cameras_is_one_world() -> None:
    for seed in range(4):
        table = TwoCameraTable(seed)
        seen = {side: table.observe(side) for side in SIDES}
        true = {side: observation.depth_map() for side, observation in seen.items()}
        assert agreement_m(seen, true) < 0.008  # a pixel
        left, right = seen.values()
        one_wrong = {"left": left.depth_map(left.depth_m * np.float32(1.1)), "right": right.depth_map()}
        assert agreement_m(seen, one_wrong) > 0.05
        far = {side: observation.depth_map(observation.depth_m + 0.1) for side, observation in seen.items()}
        assert agreement_m(seen, far) > 0.05
    with pytest.raises(ConfigError, match="two cameras"):
        agreement_m({"left": seen["left"]}, true)


def test_the_block_is_where_the_cameras_that_see_it_say() -> None:
    for seed in (0, 1, 5):
        table = TwoCameraTable(seed)
        seen = {side: table.observe(side) for side in SIDES}
        true = {side: observation.depth_map() for side, observation in seen.items()}
        places = [locate_block(seen[side], true[side], half_m=BLOCK_HALF_M) for side in SIDES]
        told = [place for place in places if place is not None]
        assert find_block(seen, true) == pytest.approx(np.mean(told, axis=0))
        assert math.dist(find_block(seen, true), table.block_m) < 0.015
    left = TwoCameraTable(1).observe("left")  # behind the screen
    assert find_block({"left": left}, {"left": left.depth_map()}) is None


def test_both_cameras_find_what_one_cannot() -> None:
    left, right, both = (score(range(12), TRUE, cameras=cameras) for cameras in ("left", "right", "both"))
    assert both.found == 12
    assert left.found + left.hidden == right.found + right.hidden == 12
    assert left.hidden >= 2
    assert right.hidden >= 2
    assert left.median_agreement_m is None
    assert both.median_agreement_m < 0.008
    assert score(range(12), TABLE).found <= 2


@pytest.mark.slow
def test_predicted_depth_finds_it_too() -> None:
    aligned, raw = (score(range(100, 112), depth) for depth in (ALIGNED, PREDICTED))
    assert aligned.hidden == raw.hidden == 0
    assert aligned.found >= 5
    assert aligned.median_agreement_m < raw.median_agreement_m


def test_depth_is_read_by_name() -> None:
    table, policy = TwoCameraTable(2), load_arm_policy()
    seen = {side: table.observe(side) for side in SIDES}
    with attach_depth_head(policy, load_arm_head(), cameras=SIDES) as attachment:
        depths = look(policy, attachment, seen)
        backwards = {side: seen[side] for side in reversed(SIDES)}
        swapped = look(policy, attachment, backwards)
    assert list(depths) == list(SIDES)
    np.testing.assert_array_equal(swapped["left"].depth_m.numpy(), depths["right"].depth_m.numpy())
    with (
        attach_depth_head(policy, load_arm_head()) as attachment,
        pytest.raises(CaptureError, match=r"left, right.*cameras="),
    ):
        look(policy, attachment, seen)


def test_wrong_words_are_refused() -> None:
    with pytest.raises(ConfigError, match="did you mean 'both'"):
        score([0], TRUE, cameras="bth")
    with pytest.raises(ConfigError, match="depth"):
        score([0], "constant")
    with pytest.raises(ConfigError, match="at least one seed"):
        score([], TRUE)
    with pytest.raises(ConfigError, match="side"):
        TwoCameraTable(0).observe("top")
    with pytest.raises(ConfigError, match="seed of a table"):
        TwoCameraTable(-1)


def test_the_example_runs(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(EXAMPLE.read_text().splitlines()) < 60
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), "2"])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    out = capsys.readouterr().out
    assert "ground truth: found on 2 tables" in out
    assert "both 2" in out.splitlines()[0]
    assert out.rstrip().endswith("identical=True")
