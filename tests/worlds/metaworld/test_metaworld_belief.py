"""Where a thing is, of its pixel and its distance; and where it is believed to be while the hand takes it along."""

from __future__ import annotations

import numpy as np
import pytest

from spaceclip_plugin import Intrinsics
from spaceclip_plugin.errors import DataError
from spaceclip_worlds.metaworld.belief import GOAL, OBJECT, Belief, sight

CAMERA = Intrinsics(100.0, 100.0, 50.0, 40.0, (80, 100))
POSE = np.array([[1.0, 0.0, 0.0, 0.2], [0.0, -1.0, 0.0, -0.1], [0.0, 0.0, -1.0, 2.0], [0.0, 0.0, 0.0, 1.0]])
"""Looks straight down from 2 m."""
PLACE = np.array([0.3, 0.1, 0.5])  # 1.5 m before it, at column 50 + 100 / 15 and row 40 - 200 / 15


def part(*pixels: tuple[int, int]) -> np.ndarray:
    seen = np.zeros((80, 100), dtype=bool)
    for row, column in pixels:
        seen[row, column] = True
    return seen


class TestSight:
    def test_the_true_distance_gives_the_place(self) -> None:
        seen = sight(PLACE, part(*[(26, 54 + x) for x in range(6)]), CAMERA, POSE)
        np.testing.assert_allclose(seen.place(1.5), PLACE)
        np.testing.assert_allclose(seen.place(1.2)[2], 0.8)
        assert seen.pixels.sum() == 6

    def test_a_direction_may_be_some_pixels_off(self) -> None:
        seen = sight(PLACE, part((26, 56)), CAMERA, POSE, misjudged_px=(2.0, -1.0))
        np.testing.assert_allclose(seen.place(1.5), PLACE + np.array([0.03, 0.015, 0.0]))  # rows are along -y here

    def test_the_distance_is_the_median_of_what_has_depth(self) -> None:
        seen = sight(PLACE, part(*[(26, 54 + x) for x in range(6)]), CAMERA, POSE)
        depth_m = np.full((80, 100), 9.0)
        depth_m[26, 54:60] = [1.0, 1.1, 1.2, 1.3, 5.0, np.inf]
        assert seen.distance_m(depth_m) == pytest.approx(1.2)
        with pytest.raises(DataError, match="no pixel of the part has depth; look from elsewhere"):
            seen.distance_m(np.full((80, 100), np.inf))

    def test_of_a_part_far_away_no_more_than_a_few_pixels_count(self) -> None:
        row = [(26, x) for x in range(100)]
        near = sight(PLACE, part(*row), CAMERA, POSE).pixels
        assert 4 <= near.sum() < 12
        assert near[26, 56]
        far = sight(PLACE, part(*[(70, x) for x in range(100)]), CAMERA, POSE).pixels
        assert 4 <= far.sum() <= 20

    def test_where_the_part_is_hidden_its_own_pixel_counts(self) -> None:
        pixels = sight(PLACE, part(), CAMERA, POSE).pixels
        assert np.argwhere(pixels).tolist() == [[26, 56]]

    @pytest.mark.parametrize("place_m", [(3.0, 0.0, 0.5), (0.2, -0.1, 3.0)])
    def test_a_place_out_of_the_picture_is_refused(self, place_m: tuple[float, float, float]) -> None:
        with pytest.raises(DataError, match="is not in the picture; point the camera at it"):
            sight(np.array(place_m), part(), CAMERA, POSE)


def seen_by_hand(hand_m: tuple[float, float, float], opening: float = 1.0) -> np.ndarray:
    observation = np.full(39, 7.0)
    observation[:3], observation[3] = hand_m, opening
    return observation


class TestBelief:
    def test_a_policy_is_told_the_hand_and_what_is_believed_and_nothing_else(self) -> None:
        told = Belief({OBJECT: PLACE, GOAL: 2 * PLACE}).told(seen_by_hand((0.0, 0.5, 0.2), 0.8), 0.0)
        np.testing.assert_array_equal(told[:4], [0.0, 0.5, 0.2, 0.8])
        np.testing.assert_array_equal(told[4:7], PLACE)
        np.testing.assert_array_equal(told[36:], 2 * PLACE)
        assert not told[7:36].any()

    def test_what_the_fingers_hold_goes_with_the_hand_until_they_open(self) -> None:
        belief = Belief({OBJECT: np.array([0.0, 0.6, 0.02])})
        belief.told(seen_by_hand((0.0, 0.6, 0.06)), 1.0)
        belief.told(seen_by_hand((0.0, 0.6, 0.06), 0.5), 1.0)
        told = belief.told(seen_by_hand((0.1, 0.6, 0.26), 0.45), 1.0)
        np.testing.assert_allclose(told[4:7], [0.1, 0.6, 0.22])
        told = belief.told(seen_by_hand((0.1, 0.6, 0.36), 0.9), -1.0)
        np.testing.assert_allclose(told[4:7], [0.1, 0.6, 0.22])

    def test_what_lies_on_something_does_not_sink_into_it_while_fingers_close(self) -> None:
        belief = Belief({OBJECT: np.array([0.0, 0.6, 0.02])})
        for z, opening in ((0.06, 0.5), (0.05, 0.45)):
            told = belief.told(seen_by_hand((0.0, 0.6, z), opening), 1.0)
        np.testing.assert_allclose(told[4:7], [0.0, 0.6, 0.02])
        np.testing.assert_allclose(belief.told(seen_by_hand((0.0, 0.6, 0.26), 0.45), 1.0)[4:7], [0.0, 0.6, 0.23])

    def test_fingers_that_close_far_away_hold_nothing(self) -> None:
        belief = Belief({OBJECT: np.array([0.0, 0.6, 0.02])})
        for z in (0.3, 0.4):
            told = belief.told(seen_by_hand((0.0, 0.6, z), 0.3), 1.0)
        np.testing.assert_allclose(told[4:7], [0.0, 0.6, 0.02])

    def test_what_is_pushed_goes_with_the_hand_from_the_touch_on(self) -> None:
        belief = Belief({OBJECT: np.array([0.0, 0.8, 0.2])}, touch_m=(0.0, 0.0, 0.03))
        np.testing.assert_allclose(belief.told(seen_by_hand((0.0, 0.8, 0.3)), 0.0)[4:7], [0.0, 0.8, 0.2])
        belief.told(seen_by_hand((0.0, 0.8, 0.24)), 0.0)
        np.testing.assert_allclose(belief.told(seen_by_hand((0.0, 0.8, 0.2)), 0.0)[4:7], [0.0, 0.8, 0.16])

    def test_it_keeps_no_hold_of_what_it_was_given(self) -> None:
        places = {OBJECT: np.array([0.0, 0.6, 0.02])}
        told = Belief(places).told(seen_by_hand((0.0, 0.6, 0.06)), 0.0)
        told[4:7] = 9.0
        assert places[OBJECT][0] == 0.0
