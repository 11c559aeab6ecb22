"""What several commands share: data of every kind, what is left out of it, and a range of depth."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spaceclip_plugin.cli.data import add_reading, as_flagged, open_specs, skipped
from spaceclip_plugin.cli.flags import given
from spaceclip_plugin.data.sample import DepthSource
from spaceclip_plugin.data.sources.image_folder import FolderData
from spaceclip_plugin.data.sources.mixture import Mixture
from spaceclip_plugin.data.sources.registry import parse_source
from spaceclip_plugin.errors import ConfigError, DataError
from spaceclip_plugin.evaluation.protocols import get_protocol
from spaceclip_plugin.training.config.shared import ReadingConfig
from spaceclip_worlds.render.tabletop import SceneData, TabletopScenes


def parsed(*argv: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_reading(parser)
    return parser.parse_args(argv)


def reading(*argv: str) -> ReadingConfig:
    return ReadingConfig(**given(parsed(*argv), ReadingConfig))


def opened(texts: list[str], *argv: str) -> DepthSource:
    near = ["--protocol", "whole-image", "--depth-range", "0.1,5"]
    specs = as_flagged([parse_source(text) for text in texts], parsed(*near, *argv))
    return open_specs(specs, reading(*near, *argv))


def write_pair(folder: Path, name: str, depth_m: float) -> None:
    for kind in ("rgb", "depth"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(folder / "rgb" / f"{name}.png")
    Image.fromarray(np.full((4, 6), round(1000 * depth_m), np.uint16)).save(folder / "depth" / f"{name}.png")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder of three photos, of which `c` is out of range; and a list of two of them, with a line of nothing."""
    for name, depth_m in (("a", 1.0), ("b", 2.0), ("c", 30.0)):
        write_pair(tmp_path / "photos", name, depth_m)
    (tmp_path / "list.txt").write_text("rgb/b.png depth/b.png\nrgb/x.png depth/x.png\nrgb/a.png depth/a.png\n")
    return tmp_path


class TestDepth:
    """What --units-per-metre and --ray-distance say of data."""

    def test_a_unit_is_for_sources_without_one(self, place: Path) -> None:
        source = opened([f"folder:{place / 'photos'}"], "--units-per-metre", "500")
        assert [source[i].depth_m.max() for i in range(3)] == [2.0, 4.0, 60.0]
        own = FolderData(str(place / "photos"), units_per_metre=2000.0)
        source = open_specs([own], ReadingConfig(units_per_metre=500.0))
        assert source[0].depth_m.max() == 0.5

    def test_a_unit_of_nothing_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="--units-per-metre 500 is for lists and folders"):
            opened(["scenes:1"], "--units-per-metre", "500")

    def test_distance_along_the_ray_is_converted(self, place: Path) -> None:
        (place / "photos" / "intrinsics.json").write_text('{"fx": 2.0, "fy": 2.0, "cx": 3.0, "cy": 2.0}')
        source = opened([f"folder:{place / 'photos'}"], "--ray-distance")
        np.testing.assert_allclose(source[0].depth_m[0, 0], 1 / np.sqrt(1 + 1.25**2 + 0.75**2), rtol=1e-6)

    def test_distance_along_the_ray_of_nothing_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="--ray-distance is for the depth of lists and folders"):
            opened(["scenes:1"], "--ray-distance")


class TestSources:
    def test_a_folder_without_a_word_is_one(self, place: Path, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.INFO):
            source = opened([str(place / "photos")])
        assert [source[i].depth_m.max() for i in range(3)] == [1.0, 2.0, 30.0]
        assert f"read as folder:{place / 'photos'}" in caplog.text

    def test_a_folder_of_something_else_is_told_what_is_expected(self, place: Path) -> None:
        with pytest.raises(ConfigError, match=rf"is a folder, and it holds list\.txt, photos;.*folder:{place} "):
            opened([str(place)])

    def test_a_list_below_a_root(self, place: Path) -> None:
        (place / "list.txt").write_text("rgb/b.png depth/b.png\n")
        source = opened([str(place / "list.txt")], "--root", str(place / "photos"))
        assert [source[i].depth_m.max() for i in range(len(source))] == [2.0]

    def test_several_of_several_kinds(self, place: Path) -> None:
        source = opened([f"folder:{place / 'photos'}", "scenes:2:7"])
        assert isinstance(source, Mixture)
        assert len(source) == 5
        assert [source[i].depth_m[0, 0] for i in range(3)] == [1.0, 2.0, 30.0]
        assert (source[3].image == TabletopScenes(2, seed=7)[0].image).all()

    def test_depth_is_read_in_the_protocols_unit(self, place: Path) -> None:
        source = opened([f"folder:{place / 'photos'}"], "--protocol", "spaceclip-kitti")
        assert source[0].depth_m[0, 0] == pytest.approx(1000 / 256)

    def test_weights_of_a_mixture(self) -> None:
        source = open_specs([SceneData(1), SceneData(2, 1)], ReadingConfig(), weights=[3.0, 1.0])
        assert isinstance(source, Mixture)
        assert [(share.count, share.weight) for share in source.shares] == [(1, 0.75), (2, 0.25)]

    def test_a_bad_line_is_an_error(self, place: Path) -> None:
        with pytest.raises(DataError, match=r"list\.txt:2"):
            opened([str(place / "list.txt")], "--root", str(place / "photos"))

    def test_what_is_left_out_is_listed_for_every_kind(self, place: Path) -> None:
        texts = [str(place / "list.txt"), f"folder:{place / 'photos'}", "scenes:1"]
        source = opened(texts, "--root", str(place / "photos"), "--skip-bad")
        assert len(source) == 2 + 2 + 1
        line, photo = skipped(TabletopScenes(1), source)
        assert (line["list"], line["line"]) == (str(place / "list.txt"), 2)
        assert "x.png" in str(line["reason"])
        assert (photo["source"], photo["name"]) == (str(place / "photos"), "c.png")
        assert "no ground truth between" in str(photo["reason"])

    def test_a_root_without_a_list(self, place: Path) -> None:
        with pytest.raises(ConfigError, match=r"--root .* is for the paths in a list"):
            opened(["scenes:1"], "--root", str(place))

    def test_a_source_that_is_none(self) -> None:
        with pytest.raises(ConfigError, match="scenes"):
            opened(["scenes:many"])


class TestProtocol:
    def test_by_name(self) -> None:
        assert reading().evaluation is get_protocol("nyu-eigen")
        assert reading("--protocol", "kitti-garg").evaluation is get_protocol("kitti-garg")

    def test_for_another_range(self) -> None:
        found = reading("--protocol", "whole-image", "--depth-range", "0.1,5").evaluation
        assert found == get_protocol("whole-image").with_range(0.1, 5.0)

    def test_for_a_range_that_is_none(self) -> None:
        with pytest.raises(ConfigError, match=r"depth_range.*\(5\.0, 0\.1\)"):
            reading("--depth-range", "5,0.1")
