"""`spaceclip predict` of a video, or of a folder of frames: a video of its depth, and what is said of it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("av", reason="needs av: pip install 'spaceclip-plugin[video]'")

import small_videos as videos
from photo_world import Run, head, no_host, photo, predict, predicted
from PIL import Image

from spaceclip_plugin.bridges.video.reading import VideoFrame, open_video
from spaceclip_plugin.cli import depth_video

__all__ = ["head", "no_host", "predict"]  # fixtures

TIMES_S = [0.0, 0.1, 0.15, 0.4, 0.5]


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """Five frames at an uneven rate, as a phone held upright stores them."""
    return videos.turn(videos.write(tmp_path / "walk.mp4", videos.noise(5), times_s=TIMES_S), (0, 1, -1, 0))


def frames_of(path: Path) -> list[VideoFrame]:
    return list(open_video(path).read())


def folder_of(path: Path, count: int = 3) -> Path:
    for number in range(count):
        photo(path / f"f{number + 8}.png", (48, 64))
    return path


class TestVideos:
    def test_its_depth_beside_it_at_its_times(self, predict: Run, video: Path, tmp_path: Path) -> None:
        code, out, _ = predict(video, "--out", tmp_path / "out", "--json")
        assert code == 0
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["walk_depth.mp4"]
        said = json.loads(out)
        assert [one["time_s"] for one in said["predictions"]] == pytest.approx(TIMES_S)
        assert [one["frame"] for one in said["predictions"]] == [0, 1, 2, 3, 4]
        assert {(one["image"], *one["image_hw"]) for one in said["predictions"]} == {(str(video), 64, 48)}
        assert said["clip"]["depth_video"] == str(tmp_path / "out" / "walk_depth.mp4")
        assert said["failed"] == []
        frames = frames_of(tmp_path / "out" / "walk_depth.mp4")
        assert [frame.time_s for frame in frames] == pytest.approx(TIMES_S)
        assert frames[0].image.shape[1] > 2 * 480

    def test_the_summary_is_short(self, predict: Run, video: Path, tmp_path: Path) -> None:
        code, out, _ = predict(video, "--out", tmp_path / "out")
        assert code == 0
        assert len(out.splitlines()) == 2
        assert "5 frames" in out
        assert "walk_depth.mp4" in out

    def test_the_files_of_every_frame(self, predict: Run, video: Path, tmp_path: Path) -> None:
        given = ["--intrinsics", "50,50,32,24", "--intrinsics-size", "48,64", "--frames"]
        assert predict(video, *given, "--out", tmp_path / "out")[0] == 0
        names = {path.name for path in (tmp_path / "out" / "walk").iterdir()}
        assert names == {f"00000{n}{end}" for n in range(5) for end in (".ply", "_depth.png", "_picture.png")}
        with Image.open(tmp_path / "out" / "walk" / "000003_depth.png") as depth:
            assert depth.size == (48, 64)
        code, _, err = predict(video, *given, "--out", tmp_path / "out")
        assert code == 1
        assert "--overwrite" in err

    def test_intrinsics_are_the_sensors(self, predict: Run, video: Path, tmp_path: Path) -> None:
        given = ["--intrinsics", "50,40,30,20", "--intrinsics-size", "48,64"]
        code, out, _ = predict(video, *given, "--out", tmp_path / "out", "--json")
        assert code == 0
        cameras = [one["intrinsics"] for one in json.loads(out)["predictions"]]
        assert cameras == [{"fx": 40, "fy": 50, "cx": 48 - 20, "cy": 30}] * 5

    def test_a_recording_has_its_times(self, predict: Run, video: Path, tmp_path: Path) -> None:
        pytest.importorskip("mcap_ros2", reason="needs mcap-ros2-support: pip install mcap-ros2-support")
        from mcap.reader import make_reader

        file = tmp_path / "walk.mcap"
        given = ["--intrinsics", "50,50,32,24", "--intrinsics-size", "48,64"]
        assert predict(video, *given, "--out", tmp_path / "out", "--mcap", file)[0] == 0
        with file.open("rb") as handle:
            messages = make_reader(handle).iter_messages(topics=["/camera/depth/image_rect_raw"])
            assert [message.log_time for _, _, message in messages] == [round(time_s * 1e9) for time_s in TIMES_S]

    def test_damage_leaves_no_video(self, predict: Run, tmp_path: Path) -> None:
        coding = videos.Coding(pixels="yuv420p", options=(("crf", "1"), ("bf", "0")))
        file = videos.write(tmp_path / "a.mp4", videos.noise(12), coding=coding)
        content = bytearray(file.read_bytes())
        content[len(content) // 2 : len(content) // 2 + 400] = np.random.default_rng(1).bytes(400)
        file.write_bytes(content)
        code, out, err = predict(file, "--out", tmp_path / "out")
        assert (code, out) == (1, "")
        assert "a.mp4: frame" in err
        assert not list((tmp_path / "out").iterdir())


class TestFolders:
    def test_frames_in_the_order_of_their_names(self, predict: Run, tmp_path: Path) -> None:
        frames = folder_of(tmp_path / "drive")
        code, out, _ = predict(frames, "--fps", "4", "--out", tmp_path / "out", "--json")
        assert code == 0
        found = predicted(out)
        assert list(found) == ["f8.png", "f9.png", "f10.png"]
        assert [(one["frame"], one["time_s"]) for one in found.values()] == [(0, 0.0), (1, 0.25), (2, 0.5)]
        assert (tmp_path / "out" / "f8_depth.png").is_file()
        times_s = [frame.time_s for frame in frames_of(tmp_path / "out" / "drive_depth.mp4")]
        assert times_s == pytest.approx([0.0, 0.25, 0.5])

    def test_photos_have_no_video(self, predict: Run, tmp_path: Path) -> None:
        code, out, _ = predict(folder_of(tmp_path / "drive"), "--out", tmp_path / "out", "--json")
        assert code == 0
        assert "clip" not in json.loads(out)
        assert not list((tmp_path / "out").glob("*.mp4"))

    def test_a_frame_that_cannot_be_used_is_missing(self, predict: Run, tmp_path: Path) -> None:
        frames = folder_of(tmp_path / "drive", count=4)
        (frames / "f9.png").write_bytes(b"")
        photo(frames / "f10.png", (48, 48))
        code, out, err = predict(frames, "--fps", "10", "--out", tmp_path / "out", "--json")
        assert code == 1
        assert list(predicted(out)) == ["f8.png", "f11.png"]
        assert [Path(one["image"]).name for one in json.loads(out)["failed"]] == ["f9.png", "f10.png"]
        assert "(48, 48)" in err
        times_s = [frame.time_s for frame in frames_of(tmp_path / "out" / "drive_depth.mp4")]
        assert times_s == pytest.approx([0.0, 0.3])

    def test_none_that_can_be_used(self, predict: Run, tmp_path: Path) -> None:
        frames = folder_of(tmp_path / "drive")
        for frame in frames.iterdir():
            frame.write_bytes(frame.read_bytes()[:200])
        code, out, err = predict(frames, "--fps", "10", "--out", tmp_path / "out")
        assert (code, out) == (1, "")
        assert "3 of 3" in err
        assert not list((tmp_path / "out").iterdir())


class TestColours:
    def test_a_range_that_is_given(self, predict: Run, video: Path, tmp_path: Path) -> None:
        """The head's depth lies beyond it: the picture is of the colour at its end."""
        code, out, _ = predict(video, "--depth-range", "500,600", "--out", tmp_path / "out", "--json")
        assert code == 0
        assert json.loads(out)["clip"]["depth_range_m"] == [500, 600]
        assert json.loads(out)["clip"]["beyond_range"] == 1.0
        frame = frames_of(tmp_path / "out" / "walk_depth.mp4")[2].image
        depth = frame[100:500, 560:900].reshape(-1, 3).astype(int)
        assert np.abs(depth - depth[0]).max() <= 4

    def test_one_for_all_frames(self, predict: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(depth_video, "_FIRST", 2)
        file = videos.write(tmp_path / "a.mp4", videos.noise(5))
        code, out, _ = predict(file, "--out", tmp_path / "out", "--json")
        assert code == 0
        near_m, far_m = json.loads(out)["clip"]["depth_range_m"]
        assert 0 <= near_m < far_m
        scales = [frame.image[:, -70:].astype(int) for frame in frames_of(tmp_path / "out" / "a_depth.mp4")]
        assert all(np.abs(scale - scales[0]).mean() < 0.5 for scale in scales)  # but for the compression

    @pytest.mark.parametrize("given", ["1", "3,1", "a,b", "-1,2", "1,nan", "1,inf"])
    def test_what_is_no_range(self, predict: Run, tmp_path: Path, given: str) -> None:
        with pytest.raises(SystemExit) as stopped:
            predict("a.mp4", f"--depth-range={given}", "--out", tmp_path / "out")
        assert stopped.value.code == 2


@pytest.mark.usefixtures("no_host")
class TestBeforeTheHost:
    def test_two_clips(self, predict: Run, video: Path, tmp_path: Path) -> None:
        for others in ([video], [folder_of(tmp_path / "drive")]):
            code, _, err = predict(video, *others, "--out", tmp_path / "out")
            assert code == 1
            assert "one by one" in err

    @pytest.mark.parametrize(("flags", "said"), [(["--fps", "10"], "--fps"), (["--rerun", "."], "--rerun")])
    def test_flags_of_other_things(
        self, predict: Run, video: Path, tmp_path: Path, flags: list[str], said: str
    ) -> None:
        code, _, err = predict(video, *flags, "--out", tmp_path / "out")
        assert code == 1
        assert said in err

    def test_frames_of_photos(self, predict: Run, tmp_path: Path) -> None:
        code, _, err = predict(folder_of(tmp_path / "drive"), "--frames", "--out", tmp_path / "out")
        assert code == 1
        assert "--frames" in err

    def test_photos_as_a_clip(self, predict: Run, tmp_path: Path) -> None:
        code, _, err = predict(photo(tmp_path / "a.png", (8, 8)), "--fps", "10", "--out", tmp_path / "out")
        assert code == 1
        assert "a.png" in err

    @pytest.mark.parametrize("given", ["0", "-1", "nan", "inf", "ten"])
    def test_what_is_no_rate(self, predict: Run, tmp_path: Path, given: str) -> None:
        with pytest.raises(SystemExit) as stopped:
            predict(tmp_path, f"--fps={given}", "--out", tmp_path / "out")
        assert stopped.value.code == 2

    def test_a_video_that_is_there(self, predict: Run, video: Path, tmp_path: Path) -> None:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "walk_depth.mp4").write_text("mine")
        code, _, err = predict(video, "--out", tmp_path / "out")
        assert code == 1
        assert "walk_depth.mp4" in err
        assert (tmp_path / "out" / "walk_depth.mp4").read_text() == "mine"

    def test_intrinsics_of_another_video(self, predict: Run, video: Path, tmp_path: Path) -> None:
        given = ["--intrinsics", "50,50,32,32", "--intrinsics-size", "64,64"]
        code, _, err = predict(video, *given, "--out", tmp_path / "out")
        assert code == 1
        assert "walk.mp4" in err

    def test_without_the_library(
        self, predict: Run, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "av", None)
        code, _, err = predict(video, "--out", tmp_path / "out")
        assert code == 1
        assert "spaceclip-plugin[video]" in err
