"""`spaceclip predict --steady --poses`: what a clip's frames are told of each other, and of where their camera was."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("av", reason="needs av: pip install 'spaceclip-plugin[video]'")

import small_videos as videos
from photo_world import Run, head, no_host, photo, predict, predicted
from PIL import Image

from spaceclip_plugin import DepthAttachment

__all__ = ["head", "no_host", "predict"]  # fixtures

GIVEN = ["--intrinsics", "50,50,32,24"]
ROW = "1 0 0 {x} 0 1 0 0 0 0 1 0"


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """Twice the same view, then another one, four times."""
    one, other = videos.noise(2, (48, 64))
    return videos.write(tmp_path / "walk.mp4", [one, one, other, other, other, other])


@pytest.fixture
def placed(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """Where attachments were told that their camera is."""
    told: list[np.ndarray] = []
    place = DepthAttachment.place

    def spy(self: DepthAttachment, places: dict[str | None, np.ndarray]) -> None:
        told.extend(places.values())
        place(self, places)

    monkeypatch.setattr(DepthAttachment, "place", spy)
    return told


def poses(path: Path, count: int) -> Path:
    path.write_text("".join(f"{ROW.format(x=number / 100)}\n" for number in range(count)))
    return path


class TestSteady:
    def test_what_every_frame_says(self, predict: Run, video: Path, tmp_path: Path) -> None:
        code, out, _ = predict(video, "--steady", "--out", tmp_path / "out", "--json")
        assert code == 0
        steady = [one["steady"] for one in json.loads(out)["predictions"]]
        assert [one["frames"] for one in steady][:2] == [1, 2]
        assert steady[0]["reset"] is not None
        assert steady[1]["reset"] is None
        assert (tmp_path / "out" / "walk_depth.mp4").is_file()

    def test_the_summary_tells_where_it_began_anew(self, predict: Run, video: Path, tmp_path: Path) -> None:
        code, out, _ = predict(video, "--steady", "--out", tmp_path / "out")
        assert code == 0
        [first, *_] = [line for line in out.splitlines() if "began anew" in line]
        assert "frame 0" in first

    def test_none_without_it(self, predict: Run, video: Path, tmp_path: Path) -> None:
        code, out, _ = predict(video, "--out", tmp_path / "out", "--json")
        assert code == 0
        assert {one["steady"] for one in json.loads(out)["predictions"]} == {None}

    def test_a_folder_is_a_clip(self, predict: Run, tmp_path: Path) -> None:
        for number in range(3):
            photo(tmp_path / "drive" / f"{number}.png", (48, 64))
        code, out, _ = predict(tmp_path / "drive", "--steady", "--out", tmp_path / "out", "--json")
        assert code == 0
        found = predicted(out)
        assert [one["time_s"] for one in found.values()] == pytest.approx([0.0, 0.1, 0.2])
        assert [one["steady"]["frames"] for one in found.values()] == [1, 2, 3]
        with Image.open(tmp_path / "out" / "2_depth.png") as depth:
            assert depth.size == (64, 48)
        assert (tmp_path / "out" / "drive_depth.mp4").is_file()


class TestPoses:
    def test_every_frame_has_its_own(self, predict: Run, video: Path, tmp_path: Path, placed: list[np.ndarray]) -> None:
        file = poses(tmp_path / "poses.txt", 6)
        code, out, _ = predict(video, *GIVEN, "--poses", file, "--out", tmp_path / "out", "--json")
        assert code == 0
        assert [pose[0, 3] for pose in placed] == pytest.approx([0.0, 0.01, 0.02, 0.03, 0.04, 0.05])
        assert all(one["steady"] is not None for one in json.loads(out)["predictions"])
        assert all(one["lens"] != "assumed" for one in json.loads(out)["predictions"])

    def test_the_other_way_round(self, predict: Run, video: Path, tmp_path: Path, placed: list[np.ndarray]) -> None:
        given = [*GIVEN, "--poses", poses(tmp_path / "poses.txt", 6), "--poses-are", "world-to-camera"]
        assert predict(video, *given, "--out", tmp_path / "out")[0] == 0
        assert [pose[0, 3] for pose in placed] == pytest.approx([0.0, -0.01, -0.02, -0.03, -0.04, -0.05])

    def test_by_the_names_of_photos(self, predict: Run, tmp_path: Path, placed: list[np.ndarray]) -> None:
        """One that cannot be used takes its pose with it."""
        matrices = {}
        for number in range(3):
            photo(tmp_path / "drive" / f"{number:03d}.png", (48, 64))
            matrix = np.eye(4)
            matrix[0, 3] = number / 10
            matrices = {f"{number:03d}": matrix.tolist(), **matrices}
        (tmp_path / "drive" / "001.png").write_bytes(b"")
        (tmp_path / "poses.json").write_text(json.dumps(matrices))
        given = [*GIVEN, "--poses", tmp_path / "poses.json"]
        assert predict(tmp_path / "drive", *given, "--out", tmp_path / "out")[0] == 1
        assert [pose[0, 3] for pose in placed] == pytest.approx([0.0, 0.2])

    def test_a_rerun_file_shows_them(
        self, predict: Run, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rerun = pytest.importorskip("rerun", reason="needs rerun: pip install 'spaceclip-plugin[viz]'")
        seen = []
        transform = rerun.Transform3D

        def spy(*, translation: np.ndarray, mat3x3: np.ndarray) -> object:
            seen.append(float(translation[0]))
            return transform(translation=translation, mat3x3=mat3x3)

        monkeypatch.setattr(rerun, "Transform3D", spy)
        given = [*GIVEN, "--poses", poses(tmp_path / "poses.txt", 6), "--rerun", tmp_path / "all.rrd"]
        assert predict(video, *given, "--out", tmp_path / "out")[0] == 0
        assert seen == pytest.approx([0.0, 0.01, 0.02, 0.03, 0.04, 0.05])


@pytest.mark.usefixtures("no_host")
class TestBeforeTheHost:
    @pytest.mark.parametrize("count", [5, 7])
    def test_more_or_fewer_poses_than_frames(self, predict: Run, video: Path, tmp_path: Path, count: int) -> None:
        file = poses(tmp_path / "poses.txt", count)
        code, _, err = predict(video, *GIVEN, "--poses", file, "--out", tmp_path / "out")
        assert code == 1
        assert f"{count} poses" in err
        assert "6 frames" in err

    @pytest.mark.parametrize(
        ("flags", "said"),
        [
            (["--poses", "{poses}"], "--intrinsics"),
            (["--poses-are", "world-to-camera"], "--poses"),
            (["--steady", "--flip"], "--flip"),
            ([*GIVEN, "--poses", "absent.txt"], "absent.txt"),
        ],
    )
    def test_flags_that_do_not_go_together(
        self, predict: Run, video: Path, tmp_path: Path, flags: list[str], said: str
    ) -> None:
        file = poses(tmp_path / "poses.txt", 6)
        code, _, err = predict(video, *(flag.format(poses=file) for flag in flags), "--out", tmp_path / "out")
        assert code == 1
        assert said in err
        assert not (tmp_path / "out").exists()

    def test_poses_are_read_and_never_written(self, predict: Run, tmp_path: Path) -> None:
        file = poses(photo(tmp_path / "drive" / "a.png", (48, 64)).with_name("a.ply"), 1)
        before = file.read_text()
        given = [*GIVEN, "--poses", file, "--overwrite"]
        assert predict(tmp_path / "drive", *given, "--out", tmp_path / "drive")[0] == 1
        assert file.read_text() == before
