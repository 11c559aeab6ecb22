"""Pictures as an H.264 video: what any player shows, when it shows it, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("av", reason="needs av: pip install 'spaceclip-plugin[video]'")

import av
import small_videos as videos

from spaceclip_plugin.bridges.video.reading import open_video
from spaceclip_plugin.bridges.video.writing import VideoWriter
from spaceclip_plugin.errors import ConfigError


@pytest.mark.parametrize("hw", [(48, 64), (45, 61)])
def test_pictures_at_their_times(tmp_path: Path, hw: tuple[int, int]) -> None:
    picture, times_s = videos.corners(hw), [1.0, 1.1, 1.11, 1.5, 2.0]
    with VideoWriter(tmp_path / "a.mp4", fps=5) as writer:
        for time_s in times_s:
            writer.write(picture, time_s)
    frames = list(open_video(tmp_path / "a.mp4").read())
    assert [frame.time_s for frame in frames] == pytest.approx([0.0, 0.1, 0.11, 0.5, 1.0], abs=1e-4)
    assert frames[0].image.shape == (hw[0] + hw[0] % 2, hw[1] + hw[1] % 2, 3)
    for row, column, colour in zip((9, 9, 38, 38), (9, 54, 9, 54), videos.COLOURS, strict=True):
        np.testing.assert_allclose(frames[-1].image[row, column], colour, atol=6)


def test_a_file_that_plays_everywhere(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "a.mp4", fps=5) as writer:
        for time_s in (0.0, 0.5):
            writer.write(videos.corners(), time_s)
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        codec = stream.codec_context
        assert (codec.name, codec.pix_fmt, codec.color_range, codec.colorspace) == ("h264", "yuv420p", 1, 1)
        assert float(stream.duration * stream.time_base) == pytest.approx(0.7)  # the last stays a fifth of a second
    assert b"moov" in (tmp_path / "a.mp4").read_bytes()[:64]  # a browser can begin before it has all


def test_what_is_no_next_picture(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "a.mp4", fps=10) as writer:
        writer.write(videos.corners(), 0.5)
        with pytest.raises(ConfigError, match=r"0\.5 s"):
            writer.write(videos.corners(), 0.5)
        with pytest.raises(ConfigError, match="one size"):
            writer.write(videos.corners((50, 64)), 0.6)
        writer.write(videos.corners(), 0.6)
    assert len(list(open_video(tmp_path / "a.mp4").read())) == 2


def test_without_an_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(av, "codecs_available", {"h264"})
    with pytest.raises(ConfigError, match="libx264"):
        VideoWriter(tmp_path / "a.mp4", fps=10)
    assert not list(tmp_path.iterdir())
