"""`spaceclip predict` replaces nothing that lies there, unless told to; then no photo, and files whole."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from photo_world import Run, head, no_host, photo, predict
from PIL import Image

from spaceclip_plugin import _files
from spaceclip_plugin.depth import exports
from spaceclip_plugin.errors import ConfigError

__all__ = ["head", "no_host", "predict"]  # fixtures

GIVEN = ["--intrinsics", "8,8,4,4"]


@pytest.fixture
def shot(tmp_path: Path) -> Path:
    return photo(tmp_path / "0001.jpg", (8, 8))


def content_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.usefixtures("no_host")
class TestRefusals:
    @pytest.mark.parametrize("name", ["0001_depth.png", "0001_picture.png", "0001.ply"])
    def test_a_file_of_the_users(self, predict: Run, shot: Path, tmp_path: Path, name: str) -> None:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / name).write_text("ground truth")
        before = content_of(tmp_path)
        code, out, err = predict(shot, *GIVEN, "--out", tmp_path / "out")
        assert (code, out) == (1, "")
        assert name in err
        assert "--overwrite" in err
        assert content_of(tmp_path) == before

    def test_many_are_counted(self, predict: Run, tmp_path: Path) -> None:
        shots = [photo(tmp_path / f"{i}.jpg", (8, 8)) for i in range(5)]
        for i in range(5):
            (tmp_path / f"{i}_depth.png").write_text("ground truth")
        code, _, err = predict(*shots, "--out", tmp_path)
        assert code == 1
        assert "2 more" in err

    @pytest.mark.parametrize("option", ["--rerun", "--mcap"])
    def test_a_recording(self, predict: Run, shot: Path, tmp_path: Path, option: str) -> None:
        pytest.importorskip("rerun" if option == "--rerun" else "mcap_ros2", reason="needs the extras viz and ros")
        (tmp_path / "drive").write_text("an hour of driving")
        code, _, err = predict(shot, *GIVEN, "--out", tmp_path / "out", option, tmp_path / "drive")
        assert code == 1
        assert "drive" in err
        assert (tmp_path / "drive").read_text() == "an hour of driving"

    def test_a_link_that_leads_nowhere(self, predict: Run, shot: Path, tmp_path: Path) -> None:
        (tmp_path / "0001_depth.png").symlink_to(tmp_path / "unmounted" / "0001_depth.png")
        assert predict(shot, "--out", tmp_path)[0] == 1
        assert (tmp_path / "0001_depth.png").is_symlink()

    @pytest.mark.parametrize("overwrite", [[], ["--overwrite"]])
    def test_a_folder_in_the_way(self, predict: Run, shot: Path, tmp_path: Path, overwrite: list[str]) -> None:
        (tmp_path / "0001_depth.png").mkdir()
        code, _, err = predict(shot, "--out", tmp_path, *overwrite)
        assert code == 1
        assert "0001_depth.png" in err

    def test_out_is_a_file(self, predict: Run, shot: Path, tmp_path: Path) -> None:
        (tmp_path / "out").write_text("mine")
        for out in (tmp_path / "out", tmp_path / "out" / "deep"):
            code, _, err = predict(shot, "--out", out, "--overwrite")
            assert code == 1
            assert "out" in err
        assert (tmp_path / "out").read_text() == "mine"

    @pytest.mark.parametrize("overwrite", [[], ["--overwrite"]])
    def test_a_photo_is_never_replaced(self, predict: Run, tmp_path: Path, overwrite: list[str]) -> None:
        shots = [photo(tmp_path / name, (8, 8)) for name in ("a.jpg", "a_depth.png")]
        before = content_of(tmp_path)
        assert predict(*shots, "--out", tmp_path, *overwrite)[0] == 1
        assert predict(tmp_path, "--out", tmp_path, *overwrite)[0] == 1
        assert content_of(tmp_path) == before

    def test_nor_through_a_linked_folder(self, predict: Run, tmp_path: Path) -> None:
        shots = [photo(tmp_path / "in" / name, (8, 8)) for name in ("a.jpg", "a_depth.png")]
        (tmp_path / "out").symlink_to(tmp_path / "in")
        before = content_of(tmp_path / "in")
        assert predict(*shots, "--out", tmp_path / "out", "--overwrite")[0] == 1
        assert content_of(tmp_path / "in") == before

    def test_nor_what_else_is_read(self, predict: Run, head: Path, shot: Path, tmp_path: Path) -> None:
        pytest.importorskip("rerun", reason="needs rerun: pip install 'spaceclip-plugin[viz]'")
        matrix = tmp_path / "0001.ply"
        matrix.write_text("8 0 4\n0 8 4\n0 0 1\n")
        assert predict(shot, "--intrinsics", matrix, "--out", tmp_path, "--overwrite")[0] == 1
        assert matrix.read_text().startswith("8 0 4")
        weights = head / "model.safetensors"
        before = weights.read_bytes()
        assert predict(shot, "--out", tmp_path / "out", "--rerun", weights, "--overwrite")[0] == 1
        assert weights.read_bytes() == before

    @pytest.mark.parametrize("other", ["0001.png", "sub/0001.jpg", "sub/0001.JPG"])
    def test_two_photos_of_one_name(self, predict: Run, shot: Path, tmp_path: Path, other: str) -> None:
        code, _, err = predict(shot, photo(tmp_path / other, (8, 8)), "--out", tmp_path / "out", "--overwrite")
        assert code == 1
        assert "'0001'" in err

    @pytest.mark.parametrize(("one", "other"), [("a.jpg", "sub/A.jpg"), ("K\u00fcche.jpg", "sub/Ku\u0308che.jpg")])
    def test_names_that_some_file_systems_take_for_one(
        self, predict: Run, tmp_path: Path, one: str, other: str
    ) -> None:
        code, _, err = predict(
            photo(tmp_path / one, (8, 8)), photo(tmp_path / other, (8, 8)), "--out", tmp_path / "out"
        )
        assert code == 1
        assert "two photos are called" in err

    def test_one_path_for_two_things(self, predict: Run, shot: Path, tmp_path: Path) -> None:
        pytest.importorskip("rerun", reason="needs rerun: pip install 'spaceclip-plugin[viz]'")
        pytest.importorskip("mcap_ros2", reason="needs mcap-ros2-support: pip install mcap-ros2-support")
        both = ["--rerun", tmp_path / "x", "--mcap", tmp_path / "x"]
        assert predict(shot, *GIVEN, "--out", tmp_path / "out", *both)[0] == 1
        assert predict(shot, *GIVEN, "--out", tmp_path / "out", "--rerun", tmp_path / "out" / "0001.ply")[0] == 1


class TestOverwriting:
    def test_a_second_run_when_told(self, predict: Run, shot: Path, tmp_path: Path) -> None:
        assert predict(shot, *GIVEN, "--out", tmp_path / "out")[0] == 0
        before = content_of(tmp_path / "out")
        assert predict(shot, *GIVEN, "--out", tmp_path / "out")[0] == 1
        (tmp_path / "out" / "0001.ply").write_text("old")
        assert predict(shot, *GIVEN, "--out", tmp_path / "out", "--overwrite")[0] == 0
        assert content_of(tmp_path / "out") == before

    def test_a_link_is_replaced_and_not_what_it_leads_to(self, predict: Run, shot: Path, tmp_path: Path) -> None:
        (tmp_path / "truth.png").write_text("ground truth")
        (tmp_path / "0001_depth.png").symlink_to(tmp_path / "truth.png")
        assert predict(shot, "--out", tmp_path, "--overwrite")[0] == 0
        assert (tmp_path / "truth.png").read_text() == "ground truth"
        assert not (tmp_path / "0001_depth.png").is_symlink()

    def test_other_files_stay(self, predict: Run, shot: Path, tmp_path: Path) -> None:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "0002_depth.png").write_text("ground truth")
        assert predict(shot, "--out", tmp_path / "out", "--overwrite")[0] == 0
        assert (tmp_path / "out" / "0002_depth.png").read_text() == "ground truth"

    def test_what_came_there_meanwhile_stays(
        self, predict: Run, shot: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Another process writes between the check and the first photo."""
        write = exports.write_png

        def late(path: Path, array: np.ndarray, *, replace: bool) -> None:
            Path(path).parent.mkdir()
            Path(path).write_text("another's")
            write(path, array, replace=replace)

        monkeypatch.setattr(exports, "write_png", late)
        code, _, err = predict(shot, "--out", tmp_path / "out")
        assert code == 1
        assert "0001_depth.png" in err
        assert content_of(tmp_path / "out") == {"0001_depth.png": b"another's"}


@pytest.mark.parametrize("links", [True, False], ids=["hard links", "a disk without"])
class TestNewFilesOnly:
    @pytest.fixture(autouse=True)
    def _disk(self, links: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object) -> None:
            raise PermissionError("Operation not permitted")

        if not links:
            monkeypatch.setattr(os, "link", refuse)

    def test_a_new_file(self, tmp_path: Path) -> None:
        with _files.atomic_path(tmp_path / "x.bin", replace=False) as temporary:
            temporary.write_bytes(b"whole")
        assert content_of(tmp_path) == {"x.bin": b"whole"}

    def test_one_that_is_there(self, tmp_path: Path) -> None:
        (tmp_path / "x.bin").write_bytes(b"old")
        with pytest.raises(ConfigError, match=r"x\.bin"), _files.atomic_path(tmp_path / "x.bin", replace=False):
            pytest.fail("the block ran")
        assert content_of(tmp_path) == {"x.bin": b"old"}

    def test_one_that_comes_meanwhile(self, tmp_path: Path) -> None:
        def both() -> None:
            with _files.atomic_path(tmp_path / "x.bin", replace=False) as temporary:
                temporary.write_bytes(b"mine")
                (tmp_path / "x.bin").write_bytes(b"another's")

        with pytest.raises(ConfigError, match=r"x\.bin"):
            both()
        assert content_of(tmp_path) == {"x.bin": b"another's"}


def test_the_values_are_the_same_with_the_tag(tmp_path: Path) -> None:
    from spaceclip_plugin.data.files.depth_formats import read_depth
    from spaceclip_plugin.data.files.images import read_rgb
    from spaceclip_plugin.depth import write_png

    millimetres = np.arange(1, 97, dtype=np.uint16).reshape(8, 12) * 600
    write_png(tmp_path / "depth.png", millimetres)
    np.testing.assert_array_equal(
        np.rint(1000 * read_depth(tmp_path / "depth.png", units_per_metre=1000.0)), millimetres
    )
    with Image.open(tmp_path / "depth.png") as image:
        assert image.getexif()[0x0112] == 1
        np.testing.assert_array_equal(np.asarray(image), millimetres)
    colours = np.arange(288, dtype=np.uint8).reshape(8, 12, 3)
    write_png(tmp_path / "photo.png", colours)
    np.testing.assert_array_equal(read_rgb(tmp_path / "photo.png"), colours)
