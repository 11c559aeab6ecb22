from __future__ import annotations

import hashlib
import runpy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from spaceclip_plugin import attach_depth_head
from spaceclip_plugin.errors import CheckpointError, ConfigError
from spaceclip_worlds.rover.embedded import HEAD_FOLDER, POLICY_FILE, WEIGHTS, load_head, load_policy, save_policy
from spaceclip_worlds.rover.episode import drive, score
from spaceclip_worlds.rover.world import Outcome, RoverWorld

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "safety_filter.py"
SEEDS = (7000, 7001, 7002)


@pytest.mark.slow
def test_predicted_depth_brings_the_rover_to_its_goal() -> None:
    result = score(SEEDS)
    # One of these three it touches something; without depth all three crash, below.
    assert (result.depth, result.seeds) == ("predicted", 3)
    assert result.successes >= 2
    assert result.collisions <= 1
    assert result.median_time_to_goal_s is not None
    assert 5.0 < result.median_time_to_goal_s < 40.0
    assert result.cpu_seconds > 0.0


@pytest.mark.slow
def test_true_depth_does_and_no_depth_does_not() -> None:
    assert drive(SEEDS[0], "true").outcome is Outcome.GOAL
    blind = drive(SEEDS[0], "none")
    assert blind.outcome is Outcome.COLLISION
    assert blind.min_clearance_m < 1e-3


@pytest.mark.slow
def test_the_same_seed_is_the_same_drive() -> None:
    assert drive(SEEDS[1]) == drive(SEEDS[1])


def test_a_drive_starts_without_memories(monkeypatch: pytest.MonkeyPatch) -> None:
    policy, forgotten = load_policy(), []
    monkeypatch.setattr(policy, "reset", lambda: forgotten.append(True))
    drive(SEEDS[0], "none", policy=policy)
    assert forgotten == [True]


def test_steady_depth_is_told_where_odometry_says_the_camera_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spaceclip_worlds.rover.world.TIMEOUT_S", 1.0)
    policy, told, frames = load_policy(), [], []
    lens = RoverWorld(SEEDS[0]).observe().intrinsics
    with attach_depth_head(policy, load_head(), cameras={"front": lens}) as attachment:
        place = attachment.keep_steady().place
        monkeypatch.setattr(attachment, "place", lambda pose: (told.append(pose), place(pose)))
        for _ in range(2):
            steps = drive(SEEDS[0], policy=policy, attachment=attachment).steps
            assert attachment.latest is not None
            frames.append(attachment.latest.steady[0].frames)
            assert attachment.latest.steady[0].doubt is None
    assert frames == [steps, steps]
    assert len({pose.tobytes() for pose in told}) == steps


def test_another_word_for_depth_is_refused() -> None:
    with pytest.raises(ConfigError, match="depth must be one of true, predicted, none, got 'gt'"):
        drive(0, "gt")


def test_a_score_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least one seed"):
        score([])


class TestEmbeddedFiles:
    def test_they_are_small_and_no_pickle(self) -> None:
        files = [path for path in WEIGHTS.rglob("*") if path.is_file()]
        assert {path.suffix for path in files} == {".json", ".safetensors"}
        assert sum(path.stat().st_size for path in files) < 4_000_000

    def test_the_head_says_what_it_is_and_which_policy_it_was_trained_on(self) -> None:
        config = load_head().config
        assert config.architecture == "tap-mixer"
        assert "rover" in (config.trained_on or "")
        assert hashlib.sha256(POLICY_FILE.read_bytes()).hexdigest() in (config.base_model or "")

    def test_a_policy_there_and_back_is_the_same_file(self, tmp_path: Path) -> None:
        save_policy(load_policy(), tmp_path / "again.safetensors")
        assert (tmp_path / "again.safetensors").read_bytes() == POLICY_FILE.read_bytes()

    @pytest.mark.parametrize(
        ("damage", "message"),
        [
            (lambda state: state.pop("key.weight"), "key.weight"),
            (lambda state: state.update(extra=torch.zeros(1)), "extra"),
            (lambda state: state.update({"key.bias": torch.zeros(3)}), "key.bias"),
            (lambda state: state["key.bias"].fill_(torch.nan), "NaN"),
        ],
    )
    def test_other_weights_are_refused(
        self, tmp_path: Path, damage: Callable[[dict[str, torch.Tensor]], object], message: str
    ) -> None:
        state = load_file(POLICY_FILE)
        damage(state)
        save_file(state, tmp_path / "other.safetensors")
        with pytest.raises(CheckpointError, match=message):
            load_policy(tmp_path / "other.safetensors")

    def test_a_truncated_or_missing_file_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "cut.safetensors").write_bytes(POLICY_FILE.read_bytes()[:1000])
        for name in ("cut.safetensors", "none.safetensors"):
            with pytest.raises(CheckpointError, match=name):
                load_policy(tmp_path / name)

    def test_loading_draws_no_random_number(self) -> None:
        torch.manual_seed(0)
        expected = torch.rand(1)
        torch.manual_seed(0)
        load_policy()
        assert torch.equal(torch.rand(1), expected)

    def test_they_lie_where_the_package_is(self) -> None:
        assert (HEAD_FOLDER / "config.json").is_file()
        assert POLICY_FILE.parent == WEIGHTS


@pytest.mark.slow
def test_the_example_prints_its_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert len(EXAMPLE.read_text().splitlines()) < 60
    runpy.run_path(str(EXAMPLE))["main"](2)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["depth", "goal", "collision", "timeout"]
    rows = {line[:14].strip(): [int(number) for number in line[14:].split()] for line in lines[1:4]}
    assert rows["ground truth"] == rows["predicted"] == [2, 0, 0]
    assert rows["none"][1] >= 1
    assert lines[4] == "actions with and without taps: identical=True"
