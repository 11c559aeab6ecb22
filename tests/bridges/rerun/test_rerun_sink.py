from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from spaceclip_plugin.bridges.rerun import RerunSink
from spaceclip_plugin.depth.age import HostSteps
from spaceclip_plugin.depth.camera import Intrinsics
from spaceclip_plugin.depth.depth_map import DepthMap
from spaceclip_plugin.depth.image_mapping import ImageMapping
from spaceclip_plugin.depth.steadiness import Steadiness
from spaceclip_plugin.errors import ConfigError

CAMERA = Intrinsics(fx_px=5.0, fy_px=4.5, cx_px=3.25, cy_px=1.75, image_hw=(4, 6))


def depth_map(*, batch: int = 1, **changed: Any) -> DepthMap:
    """Depth no two pixels of which are alike; the first one is invalid and would show if it were logged."""
    depth_m = torch.rand((batch, 4, 6), generator=torch.Generator().manual_seed(0)) + 1
    valid = torch.ones_like(depth_m, dtype=torch.bool)
    valid[:, 0, 0] = False
    settings = {"camera": None, "frame": 0, "image_hw": (4, 6), "trained": True, **changed}
    return DepthMap(depth_m, valid, uncertainty_m=0.1 * depth_m, **settings)


def steady_map(reset: str | None, *, frames: int = 1, doubt: str | None = None, **changed: Any) -> DepthMap:
    """Depth of which the frame alone says twice as much."""
    depth = depth_map(**changed)
    told = Steadiness(2 * depth.depth_m, frames, reset, carried=0.25, log_scale=0.0, log_scale_sd=0.1, doubt=doubt)
    return depth.steadied(depth.depth_m, depth.uncertainty_m, (told,))


def photo(height: int = 8, width: int = 12) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def rotation_about_z(angle_rad: float) -> np.ndarray:
    pose = np.eye(4)
    pose[:2, :2] = [[np.cos(angle_rad), -np.sin(angle_rad)], [np.sin(angle_rad), np.cos(angle_rad)]]
    pose[:3, 3] = (1.0, 2.0, 3.0)
    return pose


class Recording:
    """What an `.rrd` file holds, read by Rerun itself: {(entity, component): {(step, frame): numbers}}."""

    def __init__(self, path: Path) -> None:
        self.columns: dict[tuple[str, str], dict[tuple[int, int], Any]] = {}
        for entity, table in _tables(path):
            names = table.schema.names
            if "frame" not in names:
                continue
            times = list(zip(table.column("step").to_pylist(), table.column("frame").to_pylist(), strict=True))
            for name in names:
                own, _, component = name.rpartition(":")
                own, _, archetype = own.rpartition(":")
                if archetype:
                    column = self.columns.setdefault((own or entity, f"{archetype}:{component}"), {})
                    rows = zip(times, table.column(name).to_pylist(), strict=True)
                    column.update({time: row for time, row in rows if row is not None})

    @property
    def entities(self) -> set[str]:
        return {entity for entity, _ in self.columns}

    def one(self, entity: str, component: str) -> np.ndarray:
        [values] = self.columns[entity, component].values()
        return np.array(values[0]) if len(values) == 1 else np.array(values)

    def depth(self, entity: str) -> np.ndarray:
        assert self.one(entity, "DepthImage:meter") == 1.0
        [[form]] = self.columns[entity, "DepthImage:format"].values()
        pixels = self.one(entity, "DepthImage:buffer").astype(np.uint8).view(np.float32)
        return pixels.reshape(form["height"], form["width"])


def _tables(path: Path) -> list[tuple[str, Any]]:
    """By whichever of Rerun's readers this version has."""
    try:
        from rerun.chunk import RrdReader  # 0.34 and newer
    except ImportError:
        try:
            from rerun.experimental import RrdReader
        except ImportError:
            from rerun.dataframe import load_recording

            view = load_recording(path).view(index="frame", contents="/**")
            return [("", view.select().read_all())]
    return [(chunk.entity_path, chunk.to_record_batch()) for chunk in RrdReader(path).stream()]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    pytest.importorskip("rerun", reason="needs rerun: pip install 'spaceclip-plugin[viz]'")
    return tmp_path / "new" / "drive.rrd"


class TestRoundTrip:
    def test_depth_and_uncertainty_bit_for_bit(self, file: Path) -> None:
        depth = depth_map()
        with RerunSink(file) as sink:
            sink.log(depth)
        recording = Recording(file)
        wanted = depth.depth_m[0].numpy().copy()
        wanted[0, 0] = 0.0
        np.testing.assert_array_equal(recording.depth("/camera/depth"), wanted)
        np.testing.assert_array_equal(recording.depth("/camera/uncertainty")[1:], 0.1 * depth.depth_m[0, 1:])
        assert recording.entities == {"/camera/depth", "/camera/uncertainty", "/camera/age"}  # no camera, no points

    def test_attention_is_the_image_bright_where_blocks_looked(self, file: Path) -> None:
        with RerunSink(file) as sink:
            sink.log(depth_map(), image=photo(), attention=torch.tensor([[0.0, 0.5], [0.25, 0.1]]))
        [values] = Recording(file).one("/camera/attention", "Image:buffer").reshape(-1, 8 * 12 * 3)
        lit = values.astype(np.uint8).reshape(8, 12, 3)
        np.testing.assert_array_equal(lit[:4, 6:], photo()[:4, 6:])
        assert (lit[:4, :6] <= photo()[:4, :6] * 0.2 + 0.5).all()

    def test_attention_without_an_image_is_refused(self, file: Path) -> None:
        with RerunSink(file) as sink, pytest.raises(ConfigError, match="give that too"):
            sink.log(depth_map(), attention=np.ones((8, 8)))

    def test_intrinsics_for_the_depth_and_for_the_photo(self, file: Path) -> None:
        with RerunSink(file) as sink:
            sink.log(depth_map(), CAMERA.resized((40, 60)), image=photo())
        recording = Recording(file)
        for entity, camera in (("depth", CAMERA), ("image", CAMERA.resized((8, 12)))):
            columns = recording.one(f"/camera/{entity}", "Pinhole:image_from_camera").reshape(3, 3)
            np.testing.assert_array_equal(columns.T, camera.matrix().numpy().astype(np.float32))
            height, width = camera.image_hw
            assert recording.one(f"/camera/{entity}", "Pinhole:resolution").tolist() == [width, height]
        pixels = recording.one("/camera/image", "Image:buffer").astype(np.uint8).reshape(8, 12, 3)
        np.testing.assert_array_equal(pixels, photo())

    def test_only_valid_points_in_the_colours_of_the_photo(self, file: Path) -> None:
        depth = depth_map()
        with RerunSink(file) as sink:
            sink.log(depth, CAMERA, image=photo())
        recording = Recording(file)
        points = recording.one("/camera/points", "Points3D:positions")
        np.testing.assert_array_equal(points, depth.points(CAMERA)[depth.valid])
        red_green_blue = photo()[1::2, 1::2].reshape(-1, 3)[1:].astype(np.uint32)
        packed = red_green_blue @ np.array([1 << 24, 1 << 16, 1 << 8], np.uint32) + 255
        np.testing.assert_array_equal(recording.one("/camera/points", "Points3D:colors"), packed)

    def test_without_a_photo_points_have_the_colours_of_depth(self, file: Path) -> None:
        with RerunSink(file) as sink:
            sink.log(depth_map(), CAMERA)
        colours = Recording(file).one("/camera/points", "Points3D:colors")
        rgb = depth_map().colorize()[0].reshape(-1, 3)[1:].astype(np.int64)
        np.testing.assert_array_equal(colours, rgb @ [1 << 24, 1 << 16, 1 << 8] + 255)

    def test_every_frame_has_its_step_its_age_and_its_camera(self, file: Path) -> None:
        with RerunSink(file) as sink:
            sink.log(depth_map(camera="observation.images/wrist cam", frame=5, step=2, age=3))
            sink.log(depth_map(camera="observation.images/wrist cam", frame=8, step=3, age=0))
            sink.log(depth_map(camera="front", frame=9, step=3, age=1))
        recording = Recording(file)
        ages = {entity: column for (entity, name), column in recording.columns.items() if name == "Scalars:scalars"}
        assert ages == {
            r"/observation.images\/wrist\ cam/age": {(2, 5): [3.0], (3, 8): [0.0]},
            "/front/age": {(3, 9): [1.0]},
        }

    def test_depth_that_was_kept_has_its_age_of_now(self, file: Path) -> None:
        steps = HostSteps()
        steps.end()
        kept = depth_map(camera="a", frame=np.int64(5), step=np.int64(0), age=steps.age_of(0))
        steps.end()
        with RerunSink(file) as sink:
            sink.log(kept)
        assert Recording(file).columns["/a/age", "Scalars:scalars"] == {(0, 5): [1.0]}

    def test_an_untrained_head_says_so(self, file: Path) -> None:
        with RerunSink(file) as sink:
            sink.log(depth_map(camera="a", trained=False))
            sink.log(depth_map(camera="b"))
        recording = Recording(file)
        assert "untrained" in str(recording.one("/a/notes", "TextLog:text"))
        assert "/b/notes" not in recording.entities

    def test_familiarity_and_what_is_unlike_the_training(self, file: Path) -> None:
        with RerunSink(file) as sink:
            sink.log(depth_map(camera="a", familiarity=torch.tensor([0.01]), frame=1))
            sink.log(depth_map(camera="a", familiarity=torch.tensor([0.75]), frame=2))
            sink.log(depth_map(camera="b"))
        recording = Recording(file)
        shares = recording.columns["/a/familiarity", "Scalars:scalars"]
        assert {frame: share[0] for (_, frame), share in shares.items()} == pytest.approx({1: 0.01, 2: 0.75}, abs=1e-6)
        notes = recording.columns["/a/notes", "TextLog:text"]
        assert [frame for _, frame in notes] == [1]
        assert "familiarity 0.01" in str(notes)
        assert not {"/b/familiarity", "/b/notes"} & recording.entities

    def test_what_a_frame_alone_says_beside_what_all_say(self, file: Path) -> None:
        depth = steady_map(None)
        with RerunSink(file) as sink:
            sink.log(depth)
        recording = Recording(file)
        for entity, wanted in (("depth", depth.depth_m), ("depth_alone", 2 * depth.depth_m)):
            np.testing.assert_array_equal(recording.depth(f"/camera/{entity}"), (wanted * depth.valid)[0])

    def test_both_are_in_metres_of_the_camera(self, file: Path) -> None:
        depth = steady_map(None, focal_length=(0.5, 0.5))
        with RerunSink(file) as sink:
            sink.log(depth, CAMERA)
        recording = Recording(file)
        np.testing.assert_allclose(recording.depth("/camera/depth_alone"), 2 * recording.depth("/camera/depth"))
        assert recording.depth("/camera/depth")[1, 1] != depth.depth_m[0, 1, 1]

    def test_what_began_anew_and_which_place_was_not_believed(self, file: Path) -> None:
        with RerunSink(file) as sink:
            sink.log(steady_map("the first frame", frame=1))
            sink.log(steady_map(None, frame=2, frames=2))
            sink.log(steady_map(None, frame=3, frames=3, doubt="the images do not move so"))
        recording = Recording(file)
        frames = recording.columns["/camera/steady/frames", "Scalars:scalars"]
        assert {frame: count[0] for (_, frame), count in frames.items()} == {1: 1.0, 2: 2.0, 3: 3.0}
        assert recording.columns["/camera/steady/carried", "Scalars:scalars"][0, 2] == [0.25]
        notes = recording.columns["/camera/notes", "TextLog:text"]
        assert {frame: "first frame" in str(note) for (_, frame), note in notes.items()} == {1: True, 3: False}
        levels = recording.columns["/camera/notes", "TextLog:level"]
        assert [*levels.values()] == [["INFO"], ["WARN"]]

    def test_the_depth_maps_own_camera_and_none_that_is_only_assumed(self, file: Path) -> None:
        assumed = depth_map(camera="assumed", focal_length=CAMERA.focal_length)
        with RerunSink(file) as sink:
            sink.log(assumed)
            sink.log(assumed.with_intrinsics(CAMERA).relabelled(camera="known"))
        recording = Recording(file)
        columns = recording.one("/known/depth", "Pinhole:image_from_camera").reshape(3, 3)
        np.testing.assert_array_equal(columns.T, CAMERA.matrix().numpy().astype(np.float32))
        assert "/known/points" in recording.entities
        assert "/assumed/points" not in recording.entities
        assert ("/assumed/depth", "Pinhole:image_from_camera") not in recording.columns

    def test_the_pose_moves_the_camera(self, file: Path) -> None:
        with RerunSink(file) as sink:
            sink.log(depth_map(), CAMERA, pose=torch.from_numpy(rotation_about_z(0.5)))
        recording = Recording(file)
        assert recording.one("/camera", "Transform3D:translation").tolist() == [1.0, 2.0, 3.0]
        columns = recording.one("/camera", "Transform3D:mat3x3").reshape(3, 3)
        np.testing.assert_allclose(columns.T, rotation_about_z(0.5)[:3, :3], atol=1e-7)

    def test_an_old_file_is_replaced(self, file: Path) -> None:
        for view in ("old", "new"):
            with RerunSink(file) as sink:
                sink.log(depth_map(camera=view))
        assert Recording(file).entities == {"/new/depth", "/new/uncertainty", "/new/age"}

    def test_no_valid_pixel_is_no_point(self, file: Path) -> None:
        depth = DepthMap(torch.zeros(1, 4, 6), torch.zeros(1, 4, 6, dtype=torch.bool), None, 0, (4, 6), True)
        with RerunSink(file) as sink:
            sink.log(depth, CAMERA)
        recording = Recording(file)
        assert not recording.depth("/camera/depth").any()
        positions = recording.columns.get(("/camera/points", "Points3D:positions"), {})  # Rerun 0.24 reads no empty row
        assert not any(positions.values())


class TestRefusals:
    @pytest.mark.parametrize(
        ("changed", "said"),
        [
            ({"image": np.zeros((4, 6))}, "uint8 RGB"),
            ({"intrinsics": np.eye(4)}, "3x3"),
            ({"pose": np.eye(3)}, r"finite \(4, 4\)"),
            ({"pose": np.full((4, 4), np.nan)}, r"finite \(4, 4\)"),
            ({"pose": np.diag([2.0, 2.0, 2.0, 1.0])}, "rotation and a translation"),
            ({"pose": np.diag([1.0, 1.0, -1.0, 1.0])}, "rotation and a translation"),
            ({"pose": rotation_about_z(0.5).T}, "rotation and a translation"),
        ],
    )
    def test_arguments(self, file: Path, changed: dict[str, Any], said: str) -> None:
        with RerunSink(file) as sink:
            with pytest.raises(ConfigError, match=said):
                sink.log(depth_map(), **changed)
            sink.log(depth_map(camera="good"))
        assert Recording(file).entities == {"/good/depth", "/good/uncertainty", "/good/age"}

    def test_several_images(self, file: Path) -> None:
        with RerunSink(file) as sink, pytest.raises(ConfigError, match=r"holds 2; pick one: depth\[i\]"):
            sink.log(depth_map(batch=2))

    def test_intrinsics_of_another_image(self, file: Path) -> None:
        depth = depth_map(mapping=ImageMapping.stretched((40, 30), (4, 6)))
        with RerunSink(file) as sink, pytest.raises(ConfigError, match="40"):
            sink.log(depth, CAMERA)

    def test_after_closing(self, file: Path) -> None:
        sink = RerunSink(file)
        sink.close()
        sink.close()
        with pytest.raises(ConfigError, match="closed"):
            sink.log(depth_map())

    @pytest.mark.parametrize(
        "places", [{}, {"path": "a.rrd", "spawn": True}, {"path": "a.rrd", "url": "rerun+http://"}]
    )
    def test_one_place(self, places: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        with pytest.raises(ConfigError, match="spawn"):
            RerunSink(**places)
        assert list(tmp_path.iterdir()) == []

    def test_a_folder(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="is a folder"):
            RerunSink(tmp_path)

    def test_without_rerun(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "rerun", None)
        with pytest.raises(ConfigError, match=r"pip install 'spaceclip-plugin\[viz\]'"):
            RerunSink(tmp_path / "a.rrd")
        assert list(tmp_path.iterdir()) == []
