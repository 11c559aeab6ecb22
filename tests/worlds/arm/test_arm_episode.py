from __future__ import annotations

import math
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

from spaceclip_plugin.depth.depth_map import DepthMap
from spaceclip_plugin.errors import ConfigError
from spaceclip_worlds.arm.episode import (
    ALIGNED,
    CONSTANT,
    MOST_LOOKS,
    STEADY,
    TABLE,
    TRUE,
    attached,
    attempt,
    score,
    source_of,
)
from spaceclip_worlds.arm.known_table import aligned_to_table
from spaceclip_worlds.arm.observation import Observation
from spaceclip_worlds.arm.policy import load_arm_policy
from spaceclip_worlds.arm.world import TABLE_CAMERA, WRIST_CAMERA, ArmWorld

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"
drawn = pytest.mark.usefixtures("drawing")


@pytest.mark.slow
@drawn
def test_true_depth_lifts_the_block() -> None:
    result = score(range(10), TRUE)
    assert (result.depth, result.looks, result.seeds) == (TRUE, MOST_LOOKS, 10)
    assert result.reached >= 9
    assert result.lifted >= 9
    assert result.collisions + result.missed + result.reached == 10
    assert result.median_error_m < 0.005
    assert result.cpu_seconds > 0.0


@pytest.mark.slow
@drawn
@pytest.mark.parametrize("factor", [0.85, 1.1])
def test_alignment_to_the_table_makes_up_for_a_wrong_scale(factor: float) -> None:
    def wrong(seen: Observation, camera: str) -> DepthMap:
        return seen.depth_map(seen.depth_m * np.float32(factor))

    def mended(seen: Observation, camera: str) -> DepthMap:
        return aligned_to_table(wrong(seen, camera), seen)

    for seed in range(2):
        true, aligned, raw = (attempt(seed, see) for see in (source_of(TRUE), mended, wrong))
        assert aligned.lifted
        assert aligned.error_m == pytest.approx(true.error_m, abs=1e-4)
        assert raw.error_m > 0.02
        assert not (raw.reached and factor < 1.0)


@pytest.mark.slow
@drawn
def test_where_a_look_leaves_the_place_uncertain_the_hand_stays_up() -> None:
    for depth in (TABLE, CONSTANT):
        result = score(range(3), depth, looks=1)
        assert (result.reached, result.lifted, result.collisions, result.missed) == (0, 0, 0, 3)
        assert result.median_error_m > 0.05


@pytest.mark.slow
@drawn
def test_a_block_that_is_not_below_is_looked_for_beside(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    places: list[tuple[float, float, float]] = []
    move_to = ArmWorld.move_to

    def moved(world: ArmWorld, tool_m: tuple[float, float, float], **how: float) -> bool:
        places.append(tool_m)
        return move_to(world, tool_m, **how)

    def see(seen: Observation, camera: str) -> DepthMap:
        asked.append(camera)
        depth = seen.depth_map(uncertainty=0.2)
        if asked == [TABLE_CAMERA, WRIST_CAMERA]:
            depth.valid[:] = False  # as if it were out of the picture
        return depth

    monkeypatch.setattr(ArmWorld, "move_to", moved)
    assert attempt(0, see).lifted
    assert asked == [TABLE_CAMERA, *3 * [WRIST_CAMERA]]
    assert math.dist(places[0], places[1]) > 0.1


@pytest.mark.slow
@drawn
def test_a_second_look_is_better() -> None:
    one, two = (score(range(2), TRUE, looks=looks) for looks in (1, 2))
    assert two.median_error_m < one.median_error_m
    assert one.looks == 1


@drawn
def test_a_block_that_is_not_seen_is_missed() -> None:
    def nothing(seen: Observation, camera: str) -> DepthMap:
        depth = seen.depth_map()
        depth.valid[:] = False
        return depth

    missed = attempt(0, nothing)
    assert (missed.found, missed.reached, missed.lifted, missed.collided) == (False, False, False, False)
    assert missed.error_m == math.inf


@pytest.mark.slow
@drawn
def test_predicted_depth_reaches() -> None:
    seeds = range(100, 106)
    reached = score(seeds, ALIGNED)
    assert reached.reached >= 5
    assert reached.collisions == 0
    assert reached.median_error_m < 0.02
    # Where rays cross, none would do, too; what one look alone says is the depth's.
    predicted, none = (score(seeds, depth, looks=1) for depth in (ALIGNED, TABLE))
    assert predicted.median_error_m < none.median_error_m


@drawn
def test_looks_are_steadied_where_the_joints_say_from_where() -> None:
    policy = load_arm_policy()
    with attached(policy, STEADY) as attachment:
        see, told = source_of(STEADY, policy, attachment), []

        def noting(seen: Observation, camera: str) -> DepthMap:
            depth = see(seen, camera)
            told.append((camera, depth.steady[0]))
            return depth

        for seed in (10_008, 10_009):
            attempt(seed, noting)
    assert [steady.reset for camera, steady in told if camera == TABLE_CAMERA] == 2 * ["the first frame"]
    frames = [steady.frames for camera, steady in told if camera == WRIST_CAMERA]
    assert frames == 2 * [*range(1, MOST_LOOKS)]
    assert not any(steady.doubt for _, steady in told)


def test_wrong_words_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"depth.*did you mean 'true'"):
        source_of("tru")
    with pytest.raises(ConfigError, match="give the policy"):
        source_of(ALIGNED)
    with pytest.raises(ConfigError, match="looks"):
        attempt(0, source_of(TRUE), looks=MOST_LOOKS + 1)
    with pytest.raises(ConfigError, match="at least one seed"):
        score([], TRUE)


@pytest.mark.slow
@drawn
def test_the_example_reaches(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    path = EXAMPLES / "reach_in_mujoco.py"
    assert len(path.read_text().splitlines()) < 60
    monkeypatch.setattr(sys, "argv", [str(path), "2"])
    runpy.run_path(str(path), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[:4] == ["ground", "truth", "2", "2"]
    assert lines[-1].endswith("identical=True")


@drawn
@pytest.mark.slow
def test_the_head_can_be_made_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = EXAMPLES / "embedded" / "train_arm_head.py"
    assert len(path.read_text().splitlines()) < 60
    runpy.run_path(str(path))["main"](["--out", str(tmp_path), "--tables", "2", "--epochs", "1"])
    assert (tmp_path / "head" / "config.json").is_file()
    assert "two cameras: AbsRel" in capsys.readouterr().out
