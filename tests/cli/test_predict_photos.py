"""Which photos `spaceclip predict` takes, and what it does about those it cannot use."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path

import numpy as np
import pytest
from photo_world import Run, head, no_host, photo, predict, predicted
from PIL import Image

from spaceclip_plugin import DepthHead

__all__ = ["head", "no_host", "predict"]  # fixtures


class TestFolders:
    def test_all_photos_of_it_in_natural_order(self, predict: Run, tmp_path: Path) -> None:
        names = ["f10.png", "f2.JPG", "F1.jpeg", "f2b.tiff"]
        for name in names:
            photo(tmp_path / "in" / name, (8, 8))
        photo(tmp_path / "in" / ".f3.png", (8, 8))
        photo(tmp_path / "in" / "sub" / "f4.png", (8, 8))
        (tmp_path / "in" / "notes.txt").write_text("mine")
        (tmp_path / "in" / "folder.png").mkdir()
        code, out, _ = predict(tmp_path / "in", "--out", tmp_path / "out", "--json")
        assert code == 0
        assert list(predicted(out)) == ["F1.jpeg", "f2.JPG", "f2b.tiff", "f10.png"]
        assert json.loads(out)["failed"] == []

    def test_what_is_left_out_is_said(self, predict: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        photo(tmp_path / "in" / "a.png", (8, 8))
        for name in ("b.HEIC", "c.heic", "notes"):
            (tmp_path / "in" / name).touch()
        (tmp_path / "in" / "sub").mkdir()
        caplog.set_level(logging.INFO)
        assert predict(tmp_path / "in", "--out", tmp_path / "out")[0] == 0
        [said] = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
        assert all(part in said for part in ("1 photos", "2 .heic", "1 folders", "1 without suffix"))

    def test_a_link_to_nothing_is_a_photo_that_failed(self, predict: Run, tmp_path: Path) -> None:
        photo(tmp_path / "in" / "a.png", (8, 8))
        (tmp_path / "in" / "b.png").symlink_to("nowhere.png")
        code, out, err = predict(tmp_path / "in", "--out", tmp_path / "out", "--json")
        assert code == 1
        assert list(predicted(out)) == ["a.png"]
        assert [Path(one["image"]).name for one in json.loads(out)["failed"]] == ["b.png"]
        assert "b.png" in err

    def test_what_an_earlier_run_wrote_there_is_no_photo(
        self, predict: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        for name in ("a.png", "b_picture.png"):  # no depth and no photo beside the second: a photo itself
            photo(tmp_path / "in" / name, (8, 8))
        assert predict(tmp_path / "in" / "a.png", "--out", tmp_path / "in")[0] == 0
        caplog.set_level(logging.INFO)
        for options in (["--out", tmp_path / "out"], ["--out", tmp_path / "in", "--overwrite"]):
            code, out, _ = predict(tmp_path / "in", *options, "--json")
            assert (code, list(predicted(out))) == (0, ["a.png", "b_picture.png"])
            assert "2 files of an earlier run" in caplog.text

    def test_beside_photos(self, predict: Run, tmp_path: Path) -> None:
        photo(tmp_path / "in" / "b.png", (8, 8))
        first = photo(tmp_path / "z.png", (8, 8))
        code, out, _ = predict(first, tmp_path / "in", "--out", tmp_path / "in" / "depth", "--json")
        assert code == 0
        assert list(predicted(out)) == ["z.png", "b.png"]

    @pytest.mark.usefixtures("no_host")
    @pytest.mark.parametrize("inner", [[], ["notes.txt", ".hidden.png"], ["sub/a.png"]])
    def test_one_without_photos(self, predict: Run, tmp_path: Path, inner: list[str]) -> None:
        (tmp_path / "in").mkdir()
        for name in inner:
            photo(tmp_path / "in" / (name if name.endswith("png") else f"{name}.png"), (8, 8))
            if not name.endswith("png"):
                (tmp_path / "in" / f"{name}.png").rename(tmp_path / "in" / name)
        code, out, err = predict(tmp_path / "in", "--out", tmp_path / "out")
        assert (code, out) == (1, "")
        assert str(tmp_path / "in") in err
        assert ".png" in err

    @pytest.mark.usefixtures("no_host")
    def test_a_pattern_that_matched_nothing(self, predict: Run, tmp_path: Path) -> None:
        code, _, err = predict(tmp_path / "*.jpg", "--out", tmp_path / "out")
        assert code == 1
        assert "pattern" in err
        assert "*.jpg" in err

    def test_a_pattern_that_the_shell_left_as_it_was(self, predict: Run, tmp_path: Path) -> None:
        for name in ("b10.png", "b9.png", "a.png"):
            photo(tmp_path / name, (8, 8))
        code, out, _ = predict(tmp_path / "b*.png", "--out", tmp_path / "out", "--json")
        assert code == 0
        assert list(predicted(out)) == ["b9.png", "b10.png"]

    def test_a_file_called_like_a_pattern(self, predict: Run, tmp_path: Path) -> None:
        assert predict(photo(tmp_path / "a[1].png", (8, 8)), "--out", tmp_path / "out")[0] == 0
        assert (tmp_path / "out" / "a[1]_depth.png").is_file()


def bad_photos(folder: Path) -> dict[str, Path]:
    """Files that are no photos, of which some look like one until they are decoded."""
    folder.mkdir()
    (folder / "text.jpg").write_text("not a photo")
    (folder / "empty.png").touch()
    whole = photo(folder / "cut.jpg", (64, 64))
    whole.write_bytes(whole.read_bytes()[:-800])
    return {path.name: path for path in (folder / "text.jpg", folder / "empty.png", whole, folder / "absent.jpg")}


class TestBadPhotos:
    def test_the_others_are_done(self, predict: Run, tmp_path: Path) -> None:
        bad = bad_photos(tmp_path / "bad")
        good = [photo(tmp_path / f"{name}.png", (8, 8)) for name in "ab"]
        code, out, err = predict(good[0], *bad.values(), good[1], "--out", tmp_path / "out", "--json")
        assert code == 1
        assert list(predicted(out)) == ["a.png", "b.png"]
        failed = {Path(entry["image"]).name: entry["reason"] for entry in json.loads(out)["failed"]}
        assert list(failed) == list(bad)
        assert all(name in reason and reason in err for name, reason in failed.items())
        assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
            "a_depth.png", "a_picture.png", "b_depth.png", "b_picture.png",
        ]  # fmt: skip

    def test_in_the_text_too(self, predict: Run, tmp_path: Path) -> None:
        bad_photos(tmp_path / "in")
        photo(tmp_path / "in" / "a.png", (8, 8))
        code, out, err = predict(tmp_path / "in", "--out", tmp_path / "out")
        assert code == 1
        assert "a.png: median depth" in out
        assert "3 of 4 photos" in err

    @pytest.mark.usefixtures("no_host")
    def test_no_host_for_none(self, predict: Run, tmp_path: Path) -> None:
        bad = bad_photos(tmp_path / "bad")
        code, out, err = predict(bad["text.jpg"], bad["absent.jpg"], "--out", tmp_path / "out")
        assert (code, out) == (1, "")
        assert "text.jpg" in err
        assert "absent.jpg" in err
        assert not (tmp_path / "out").exists()

    def test_recordings_hold_the_good_ones(self, predict: Run, tmp_path: Path) -> None:
        pytest.importorskip("mcap_ros2", reason="needs mcap-ros2-support: pip install mcap-ros2-support")
        from mcap.reader import make_reader

        bad = bad_photos(tmp_path / "bad")
        good = [photo(tmp_path / f"{name}.png", (8, 8)) for name in "ab"]
        recording = tmp_path / "all.mcap"
        given = ["--intrinsics", "8,8,4,4", "--intrinsics-size", "8,8"]
        assert predict(good[0], bad["cut.jpg"], good[1], *given, "--out", tmp_path / "out", "--mcap", recording)[0] == 1
        with recording.open("rb") as handle:
            times = [m.log_time for _, _, m in make_reader(handle).iter_messages(topics=["/camera/depth/camera_info"])]
        assert times == [0, 10**9]

    def test_no_recording_of_none(self, predict: Run, tmp_path: Path) -> None:
        pytest.importorskip("rerun", reason="needs rerun: pip install 'spaceclip-plugin[viz]'")
        bad = bad_photos(tmp_path / "bad")
        assert predict(bad["cut.jpg"], "--out", tmp_path / "out", "--rerun", tmp_path / "all.rrd")[0] == 1
        assert sorted(path.name for path in tmp_path.iterdir()) == ["bad"]

    def test_a_name_too_long_for_its_files(self, predict: Run, tmp_path: Path) -> None:
        long = photo(tmp_path / f"{'x' * 248}.png", (8, 8))
        good = photo(tmp_path / "a.png", (8, 8))
        code, out, _ = predict(long, good, "--out", tmp_path / "out", "--json")
        assert code == 1
        assert list(predicted(out)) == ["a.png"]
        assert [entry["image"] for entry in json.loads(out)["failed"]] == [str(long)]


def test_depth_says_that_it_is_upright(predict: Run, tmp_path: Path) -> None:
    for orientation in range(1, 9):
        photo(tmp_path / "in" / f"{orientation}.jpg", (8, 12), orientation=orientation)
    assert predict(tmp_path / "in", "--out", tmp_path / "out")[0] == 0
    for orientation in range(1, 9):
        for kind in ("depth", "picture"):
            with Image.open(tmp_path / "out" / f"{orientation}_{kind}.png") as image:
                assert image.getexif()[0x0112] == 1
                if kind == "depth":
                    assert np.asarray(image).shape == ((12, 8) if orientation >= 5 else (8, 12))


def test_photos_prepared_otherwise_than_the_heads_are_named(
    tmp_path: Path, predict: Run, head: Path, caplog: pytest.LogCaptureFixture
) -> None:
    picky = DepthHead.from_pretrained(head)
    picky.config = dataclasses.replace(picky.config, preparation="letterbox:centre")
    other = picky.save_pretrained(tmp_path / "head")
    wide = photo(tmp_path / "wide.png", (24, 40))
    for flags, warned in (("letterbox", False), ("stretch", True), ("host", True)):
        caplog.clear()
        out = tmp_path / flags
        assert predict("--head", other, "--preparation", flags, "--out", out, wide)[0] == 0
        assert [record.levelname for record in caplog.records if "(letterbox:centre)" in record.getMessage()] == (
            ["WARNING"] * warned
        )
