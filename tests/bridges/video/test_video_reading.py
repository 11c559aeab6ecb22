"""Videos as cameras, phones and accidents leave them: every frame as a player shows it, or a refusal by name."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("av", reason="needs av: pip install 'spaceclip-plugin[video]'")

import small_videos as videos
from small_videos import Coding

from spaceclip_plugin.bridges.video import reading
from spaceclip_plugin.bridges.video.reading import open_video
from spaceclip_plugin.data.files.orientation import upright
from spaceclip_plugin.errors import ConfigError, DataError

LOSSY = (("crf", "10"),)
MATRICES = {
    1: (1, 0, 0, 1), 2: (-1, 0, 0, 1), 3: (-1, 0, 0, -1), 4: (1, 0, 0, -1),
    5: (0, 1, 1, 0), 6: (0, 1, -1, 0), 7: (0, -1, -1, 0), 8: (0, -1, 1, 0),
}  # fmt: skip


class TestFrames:
    def test_the_pixels_in_rgb(self, tmp_path: Path) -> None:
        pictures = videos.noise(3)
        video = open_video(videos.write(tmp_path / "a.mkv", pictures))
        assert (video.header.stored_hw, video.frames) == ((48, 64), 3)
        for frame, picture in zip(video.read(), pictures, strict=True):
            np.testing.assert_allclose(frame.image, picture, atol=3)

    def test_their_times_at_any_rate(self, tmp_path: Path) -> None:
        times_s = [2.0, 2.1, 2.11, 2.5, 3.0]
        video = open_video(videos.write(tmp_path / "a.mp4", videos.noise(5), times_s=times_s))
        assert [frame.time_s for frame in video.read()] == pytest.approx([0.0, 0.1, 0.11, 0.5, 1.0], abs=1e-4)
        assert video.fps == pytest.approx(4.0)

    def test_one_frame(self, tmp_path: Path) -> None:
        video = open_video(videos.write(tmp_path / "a.mp4", videos.noise(1)))
        assert [frame.time_s for frame in video.read()] == [0.0]
        assert video.fps > 0

    @pytest.mark.parametrize(
        ("suffix", "coding"),
        [
            ("mov", Coding(pixels="yuv420p", options=LOSSY)),
            ("avi", Coding("mjpeg", "yuvj420p", ())),
            ("webm", Coding("libvpx-vp9", "yuv420p", ())),
            ("mkv", Coding("libx264rgb", "rgb24", LOSSY)),
        ],
    )
    def test_what_cameras_write(self, tmp_path: Path, suffix: str, coding: Coding) -> None:
        video = open_video(videos.write(tmp_path / f"a.{suffix}", [videos.corners()] * 4, coding=coding))
        frames = list(video.read())
        assert len(frames) == video.frames == 4
        for row, column, colour in zip((9, 9, 39, 39), (9, 54, 9, 54), videos.COLOURS, strict=True):
            np.testing.assert_allclose(frames[-1].image[row, column], colour, atol=12)

    @pytest.mark.parametrize("orientation", MATRICES)
    def test_upright_as_phones_write_it(self, tmp_path: Path, orientation: int) -> None:
        picture = videos.corners()
        file = videos.turn(videos.write(tmp_path / "a.mp4", [picture] * 2), MATRICES[orientation])
        video = open_video(file)
        assert video.header.orientation == orientation
        for frame in video.read():
            assert frame.image.shape[:2] == video.header.upright_hw
            np.testing.assert_allclose(frame.image, upright(picture, orientation), atol=3)

    @pytest.mark.parametrize("full", [False, True])
    @pytest.mark.parametrize(
        ("space", "hw", "red", "blue"),
        [
            (1, (48, 64), 0.2126, 0.0722),  # BT.709
            (5, (48, 64), 0.299, 0.114),  # BT.601
            (9, (48, 64), 0.2627, 0.0593),  # BT.2020
            (2, (48, 64), 0.299, 0.114),  # none told: by the size
            (2, (720, 64), 0.2126, 0.0722),
        ],
    )
    def test_in_the_matrix_and_the_range_that_it_tells(
        self, tmp_path: Path, space: int, hw: tuple[int, int], red: float, blue: float, full: bool
    ) -> None:
        rgb = np.array([200, 40, 60]) / 255
        luma = red * rgb[0] + (1 - red - blue) * rgb[1] + blue * rgb[2]
        chroma = [(rgb[2] - luma) / (2 - 2 * blue), (rgb[0] - luma) / (2 - 2 * red)]
        yuv = (
            [255 * luma, *(128 + 255 * c for c in chroma)]
            if full
            else [16 + 219 * luma, *(128 + 224 * c for c in chroma)]
        )
        file = videos.write_plain(
            tmp_path / "a.mkv", tuple(round(value) for value in yuv), hw=hw, space=space, full=full
        )
        [frame] = open_video(file).read()
        np.testing.assert_allclose(frame.image[0, 0], [200, 40, 60], atol=2)


class TestRefusals:
    @pytest.mark.parametrize("share", [0.05, 0.4, 0.95])
    @pytest.mark.parametrize("faststart", [False, True])
    def test_a_file_that_is_cut_short(self, tmp_path: Path, share: float, faststart: bool) -> None:
        file = videos.write(tmp_path / "cut.mp4", videos.noise(12), coding=Coding(faststart=faststart))
        content = file.read_bytes()
        file.write_bytes(content[: int(share * len(content))])
        with pytest.raises(DataError, match=r"cut\.mp4"):
            open_video(file)

    def test_one_whose_header_tells_more(self, tmp_path: Path) -> None:
        file = videos.write(tmp_path / "cut.mkv", videos.noise(60))
        content = file.read_bytes()
        file.write_bytes(content[: len(content) // 2])
        with pytest.raises(DataError, match=r"cut\.mkv.*of 6\.0 s"):
            open_video(file)

    def test_a_frame_that_is_damaged(self, tmp_path: Path) -> None:
        file = videos.write(
            tmp_path / "a.mp4", videos.noise(12), coding=Coding(pixels="yuv420p", options=(("crf", "1"), ("bf", "0")))
        )
        content = bytearray(file.read_bytes())
        middle = len(content) // 2
        content[middle : middle + 400] = np.random.default_rng(1).bytes(400)
        file.write_bytes(content)
        video = open_video(file)
        with pytest.raises(DataError, match=r"a\.mp4: frame \d"):
            list(video.read())

    @pytest.mark.parametrize("content", [b"", b"not a video" * 200])
    def test_what_is_no_video(self, tmp_path: Path, content: bytes) -> None:
        file = tmp_path / "a.mp4"
        file.write_bytes(content)
        with pytest.raises(DataError, match=r"a\.mp4"):
            open_video(file)

    def test_a_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"absent\.mp4"):
            open_video(tmp_path / "absent.mp4")

    @pytest.mark.parametrize(
        "text",
        [
            "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{}\n#EXT-X-ENDLIST\n",
            "ffconcat version 1.0\nfile {}\n",
        ],
    )
    @pytest.mark.parametrize("suffix", ["mp4", "mkv"])
    def test_a_playlist_opens_no_other_file(self, tmp_path: Path, text: str, suffix: str) -> None:
        other = videos.write(tmp_path / "other.mp4", videos.noise(2))
        file = tmp_path / f"list.{suffix}"
        file.write_text(text.format(other))
        with pytest.raises(DataError, match=r"list\."):
            open_video(file)

    def test_sound_without_pictures(self, tmp_path: Path) -> None:
        import av

        with av.open(str(tmp_path / "a.mp4"), "w") as container:
            stream = container.add_stream("aac", rate=16000)
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 16000, 0
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        with pytest.raises(DataError, match="no video"):
            open_video(tmp_path / "a.mp4")

    def test_huge_frames(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        file = videos.write(tmp_path / "a.mp4", videos.noise(2))
        monkeypatch.setattr(reading, "MAX_PIXELS", 48 * 64 - 1)
        with pytest.raises(DataError, match="64x48"):
            open_video(file)

    @pytest.mark.parametrize("matrix", [(0.9, 0.4, -0.4, 0.9), (0, 0, 0, 0)])
    def test_a_turn_that_is_no_quarter(self, tmp_path: Path, matrix: tuple[float, ...]) -> None:
        file = videos.turn(videos.write(tmp_path / "a.mp4", videos.noise(1)), matrix)
        with pytest.raises(DataError, match="quarter"):
            open_video(file)

    def test_times_that_go_back(self, tmp_path: Path) -> None:
        """AVI has no place for the times of frames that are stored in another order."""
        pictures = [np.roll(videos.corners(), 2 * shift, axis=1) for shift in range(9)]
        file = videos.write(
            tmp_path / "a.avi",
            pictures,
            times_s=[n / 10 for n in range(9)],
            coding=Coding(pixels="yuv420p", options=()),
        )
        with pytest.raises(DataError, match=r"frame \d is of .* after"):
            list(open_video(file).read())

    def test_without_the_library(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        file = videos.write(tmp_path / "a.mp4", videos.noise(1))
        monkeypatch.setitem(sys.modules, "av", None)
        with pytest.raises(ConfigError, match=r"spaceclip-plugin\[video\]"):
            open_video(file)


def test_hdr_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    import av

    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        stream.codec_context.color_trc = 18
        container.mux(stream.encode(av.VideoFrame.from_ndarray(videos.corners(), format="rgb24")))
        container.mux(stream.encode(None))
    with caplog.at_level(logging.WARNING):
        open_video(tmp_path / "a.mp4")
    assert "HLG" in caplog.text
