"""Teaching: what is kept of a teacher's depth, its scale, and what happens when it is interrupted or goes wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image
from wall_teacher import HW, WallTeacher, photo, save_photos

from spaceclip_plugin.data.sample import fingerprint, photo_of
from spaceclip_plugin.data.sources.image_folder import FolderData
from spaceclip_plugin.depth import Intrinsics
from spaceclip_plugin.errors import ConfigError, DataError, SpaceClipError, TeacherError, TrainingError
from spaceclip_plugin.teaching import TaughtData, TaughtDepth, TaughtRecord, TeachOptions, making, teach

QUIET = TeachOptions(progress=False)


def quietly(**changes: object) -> TeachOptions:
    return TeachOptions(**{"progress": False, **changes})  # type: ignore[arg-type]


def opened(folder: Path) -> TaughtDepth:
    return TaughtData(str(folder)).open(units_per_metre=1000.0)


def taught(folder: Path, teacher: WallTeacher | None = None, options: TeachOptions = QUIET) -> TaughtRecord:
    return teach(FolderData(str(folder / "kitchen")), teacher or WallTeacher(), folder / "taught", options=options)


class TestWhatIsKept:
    def test_depth_is_the_teachers_to_the_bit_where_nothing_scales_it(self, tmp_path: Path) -> None:
        save_photos(tmp_path / "kitchen", lens=True)
        record = taught(tmp_path, WallTeacher(factor=1.0))
        source = opened(tmp_path / "taught")
        assert (len(source), record.usable, record.check) == (6, 6, None)
        assert [clip.based_on for clip in record.clips] == ["nothing"]
        for index in range(6):
            sample = source[index]
            np.testing.assert_array_equal(sample.image, photo(index))
            kept = sample.depth_m > 0
            said = WallTeacher(factor=1.0).depth(photo(index)[None], [None])[0]
            view = np.sqrt(said.astype(np.float64) ** 2).astype(np.float32)
            np.testing.assert_array_equal(sample.depth_m[kept], view[kept])
            assert sample.name == f"{index:02}.png"
            assert sample.intrinsics == Intrinsics(30.0, 30.0, 16.0, 12.0, HW)

    def test_the_worst_fifth_is_left_out_of_each_photo(self, tmp_path: Path) -> None:
        class Unsure(WallTeacher):
            def depth(self, photos: np.ndarray, intrinsics: Sequence[Intrinsics | None]) -> np.ndarray:
                depth = super().depth(photos, intrinsics)
                rows = np.linspace(0, 0.1, HW[0], dtype=np.float32)[:, None]
                depth[1:] *= 1 + rows  # the mirrored view says more, the lower the more
                return depth

        save_photos(tmp_path / "kitchen", 2)
        taught(tmp_path, Unsure())
        kept = opened(tmp_path / "taught")[0].depth_m > 0
        assert kept.mean() == pytest.approx(0.8, abs=0.05)
        assert kept[: HW[0] // 2].all()
        assert not kept[-2:].any()

    def test_a_second_teacher_doubts_where_it_disagrees(self, tmp_path: Path) -> None:
        class Other(WallTeacher):
            def depth(self, photos: np.ndarray, intrinsics: Sequence[Intrinsics | None]) -> np.ndarray:
                depth = super().depth(photos, intrinsics)
                depth[:, :4] *= 3
                return depth

        save_photos(tmp_path / "kitchen", 2)
        spec = FolderData(str(tmp_path / "kitchen"))
        record = teach(spec, WallTeacher(), tmp_path / "taught", second=Other(factor=2.0), options=QUIET)
        kept = opened(tmp_path / "taught")[0].depth_m > 0
        assert not kept[:4].any()
        assert kept[4:].all()
        assert len(record.cards) == 2

    def test_a_mask_and_a_range(self, tmp_path: Path) -> None:
        save_photos(tmp_path / "kitchen", 2)
        mask = np.zeros((HW[0] * 2, HW[1] * 2), np.uint8)
        mask[-12:] = 255
        Image.fromarray(mask).save(tmp_path / "gripper.png")
        taught(tmp_path, WallTeacher(factor=1.0), quietly(mask=tmp_path / "gripper.png", range_m=(0.5, 2.0)))
        (tmp_path / "gripper.png").unlink()  # a copy stays with the depth
        depth_m = opened(tmp_path / "taught")[0].depth_m
        assert not depth_m[-6:].any()
        assert depth_m[:-6].any()
        assert 0.5 <= depth_m[depth_m > 0].min() <= depth_m.max() <= 2.0

    def test_photos_are_not_asked_about_again_for_another_mask_or_range(self, tmp_path: Path) -> None:
        save_photos(tmp_path / "kitchen")
        teacher = WallTeacher()
        taught(tmp_path, teacher)
        before = [fingerprint(opened(tmp_path / "taught"), index) for index in range(6)]
        assert teacher.asked == 6
        taught(tmp_path, teacher, quietly(range_m=(0.1, 1.4)))
        assert teacher.asked == 6
        after = [fingerprint(opened(tmp_path / "taught"), index) for index in range(6)]
        assert [photo_of(one) for one in before] == [photo_of(one) for one in after]
        assert not set(before) & set(after)


class TestScale:
    def test_one_for_all_photos_from_those_that_were_measured(self, tmp_path: Path) -> None:
        save_photos(tmp_path / "kitchen", measured=(1, 4))
        record = taught(tmp_path)
        [clip] = record.clips
        assert (clip.scale, clip.based_on, clip.images) == (pytest.approx(2.0), "measured depth", 6)
        assert record.check is not None
        assert record.check.images == 2
        assert record.check.abs_rel == pytest.approx(0.0, abs=1e-6)
        assert record.check.abs_rel_as_given == pytest.approx(0.5)
        sample = opened(tmp_path / "taught")[0]
        kept = sample.depth_m > 0
        np.testing.assert_allclose(sample.depth_m[kept], (photo(0)[..., 0] / 50)[kept], rtol=1e-6)

    def test_wrong_measurements_do_not_move_it(self, tmp_path: Path) -> None:
        save_photos(tmp_path / "kitchen", measured=range(6))
        for name in ("00", "01"):
            path = tmp_path / "kitchen" / "depth" / f"{name}.npy"
            np.save(path, np.load(path) * 3)
        assert taught(tmp_path).clips[0].scale == pytest.approx(2.0)

    def test_ranges_anchor_it(self, tmp_path: Path) -> None:
        save_photos(tmp_path / "kitchen")
        (tmp_path / "ranges.csv").write_text(f"index,u_px,v_px,depth_m\n3,8.5,4.5,{photo(3)[4, 8, 0] / 50}\n")
        record = taught(tmp_path, options=quietly(ranges=tmp_path / "ranges.csv"))
        assert (record.clips[0].scale, record.clips[0].based_on) == (pytest.approx(2.0), "ranges")

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("index,u,v,d\n", "first line is index,u_px,v_px,depth_m"),
            ("index,u_px,v_px,depth_m\n", "there is none"),
            ("index,u_px,v_px,depth_m\n6,1,1,1\n", "no photo 6"),
            ("index,u_px,v_px,depth_m\n0,1,1,0\n", "positive distance"),
            ("index,u_px,v_px,depth_m\n0,1,1\n", "four numbers"),
            ("index,u_px,v_px,depth_m\n0,32,1,1\n", "beyond the photo"),
        ],
    )
    def test_ranges_that_are_none(self, tmp_path: Path, text: str, message: str) -> None:
        save_photos(tmp_path / "kitchen")
        (tmp_path / "ranges.csv").write_text(text)
        with pytest.raises(DataError, match=message):
            taught(tmp_path, options=quietly(ranges=tmp_path / "ranges.csv"))

    def test_measured_depth_that_does_not_agree_is_an_error(self, tmp_path: Path) -> None:
        save_photos(tmp_path / "kitchen", measured=(0, 1))
        for path in (tmp_path / "kitchen" / "depth").iterdir():
            np.save(path, np.random.default_rng(0).uniform(0.2, 20, HW).astype(np.float32))
        with pytest.raises(TeacherError, match="no one scale"):
            taught(tmp_path)

    def test_inverse_depth_is_anchored_by_scale_and_shift(self, tmp_path: Path) -> None:
        save_photos(tmp_path / "kitchen", measured=(0, 5))
        record = taught(tmp_path, WallTeacher(gives="inverse"))
        assert (record.clips[0].scale, record.clips[0].shift) == (pytest.approx(2.0), pytest.approx(-0.2))
        sample = opened(tmp_path / "taught")[3]
        kept = sample.depth_m > 0
        np.testing.assert_allclose(sample.depth_m[kept], (photo(3)[..., 0] / 50)[kept], rtol=1e-4)

    def test_inverse_depth_without_an_anchor_is_refused_before_it_is_asked(self, tmp_path: Path) -> None:
        save_photos(tmp_path / "kitchen")
        teacher = WallTeacher(gives="inverse")
        with pytest.raises(TeacherError, match=r"no metres, and there is neither measured depth nor --ranges"):
            taught(tmp_path, teacher)
        assert teacher.asked == 0
        assert not (tmp_path / "taught").exists()


class TestRefusals:
    def test_depth_that_is_mostly_out_of_range(self, tmp_path: Path) -> None:
        save_photos(tmp_path / "kitchen")
        with pytest.raises(TeacherError, match=r"100 % of the depth lies out of 0\.05 to 100 m, its median"):
            taught(tmp_path, WallTeacher(factor=200.0))

    @pytest.mark.parametrize("value", [np.nan, -1.0])
    def test_depth_that_is_none(self, tmp_path: Path, value: float) -> None:
        save_photos(tmp_path / "kitchen")
        with pytest.raises(TeacherError, match=r"wall:1 gave depth for 00\.png that is NaN or negative"):
            taught(tmp_path, WallTeacher(factor=value))

    def test_depth_of_another_shape(self, tmp_path: Path) -> None:
        save_photos(tmp_path / "kitchen")
        teacher = WallTeacher()
        teacher.depth = lambda photos, intrinsics: np.ones((2, 4, 4), np.float32)  # type: ignore[method-assign]
        with pytest.raises(TeacherError, match=r"gave float32 of shape \(2, 4, 4\) for 00\.png"):
            taught(tmp_path, teacher)

    def test_a_mask_of_everything_or_of_other_photos(self, tmp_path: Path) -> None:
        save_photos(tmp_path / "kitchen")
        Image.fromarray(np.full(HW, 255, np.uint8)).save(tmp_path / "all.png")
        with pytest.raises(DataError, match="leaves out everything"):
            taught(tmp_path, options=quietly(mask=tmp_path / "all.png"))
        square = np.zeros((8, 8), np.uint8)
        square[0] = 255
        Image.fromarray(square).save(tmp_path / "square.png")
        with pytest.raises(DataError, match="of other photos"):
            taught(tmp_path, options=quietly(mask=tmp_path / "square.png"))

    def test_a_photo_that_cannot_be_read(self, tmp_path: Path) -> None:
        save_photos(tmp_path / "kitchen")
        (tmp_path / "kitchen" / "rgb" / "02.png").write_bytes(b"no photo")
        with pytest.raises(DataError, match="02.png"):  # noqa: RUF043
            taught(tmp_path)
        record = teach(
            FolderData(str(tmp_path / "kitchen")), WallTeacher(), tmp_path / "rest", options=quietly(skip_bad=True)
        )
        assert (record.left_out, record.usable) == ([2], 5)
        source = opened(tmp_path / "rest")
        assert [source[index].name for index in range(len(source))] == [f"0{i}.png" for i in (0, 1, 3, 4, 5)]

    @pytest.mark.parametrize("changes", [{"keep": 0.0}, {"range_m": (2.0, 1.0)}, {"workers": -1}])
    def test_options_that_cannot_be(self, changes: dict[str, object]) -> None:
        with pytest.raises(ConfigError):
            quietly(**changes)


class TestInterrupted:
    @pytest.fixture(autouse=True)
    def _small_shards(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(making, "SHARD_BYTES", 20_000)  # two photos

    def files(self, folder: Path) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in sorted((folder / "taught").glob("taught-*"))}

    def test_goes_on_where_it_was(self, tmp_path: Path) -> None:
        save_photos(tmp_path / "kitchen")
        taught(tmp_path)
        whole = self.files(tmp_path)
        assert len(whole) == 3
        shutil.rmtree(tmp_path / "taught")

        class Stopped(WallTeacher):
            def depth(self, photos: np.ndarray, intrinsics: Sequence[Intrinsics | None]) -> np.ndarray:
                if self.asked == 3:
                    raise KeyboardInterrupt
                return super().depth(photos, intrinsics)

        with pytest.raises(KeyboardInterrupt):
            taught(tmp_path, Stopped())
        assert list(self.files(tmp_path)) == ["taught-00000.safetensors"]
        with pytest.raises(DataError, match="interrupted: give the same command again"):
            opened(tmp_path / "taught")
        teacher = WallTeacher()
        taught(tmp_path, teacher)
        assert teacher.asked == 4
        assert self.files(tmp_path) == whole

    def test_a_damaged_file_alone_is_made_again(self, tmp_path: Path) -> None:
        save_photos(tmp_path / "kitchen")
        taught(tmp_path)
        whole = self.files(tmp_path)
        path = tmp_path / "taught" / "taught-00001.safetensors"
        content = bytearray(path.read_bytes())
        content[-20] ^= 1
        path.write_bytes(bytes(content))
        with pytest.raises(TrainingError, match="Remove that file and give the same command again"):
            taught(tmp_path)
        path.unlink()
        teacher = WallTeacher()
        taught(tmp_path, teacher)
        assert teacher.asked == 2
        assert self.files(tmp_path) == whole

    def test_what_was_half_written_goes(self, tmp_path: Path) -> None:
        save_photos(tmp_path / "kitchen")
        (tmp_path / "taught").mkdir()
        for stem, suffix in (("taught-00001", "safetensors"), ("mask", "png"), ("teacher", "json")):
            (tmp_path / "taught" / f".{stem}.0123456789ab.tmp.{suffix}").write_bytes(b"half")
        taught(tmp_path)
        assert [path.name for path in (tmp_path / "taught").glob(".*")] == [".lock"]

    def test_a_full_disk_is_told_beforehand(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        save_photos(tmp_path / "kitchen")
        monkeypatch.setattr(making.shutil, "disk_usage", lambda path: SimpleNamespace(free=10_000))
        with pytest.raises(TrainingError, match=r"needs 52\.22 kB .* and 10\.00 kB are free"):
            taught(tmp_path)

    def test_a_disk_that_fills_up_loses_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        save_photos(tmp_path / "kitchen")
        written = making.write_shard

        def full(path: Path, *args: object, **options: object) -> str:
            if path.name != "taught-00000.safetensors":
                raise TrainingError("No space left")
            return written(path, *args, **options)  # type: ignore[arg-type]

        monkeypatch.setattr(making, "write_shard", full)
        with pytest.raises(TrainingError, match="No space"):
            taught(tmp_path)
        monkeypatch.setattr(making, "write_shard", written)
        teacher = WallTeacher()
        taught(tmp_path, teacher)
        assert teacher.asked == 4


class TestTheFolder:
    def test_two_at_once(self, tmp_path: Path) -> None:
        save_photos(tmp_path / "kitchen")
        (tmp_path / "taught").mkdir()
        with (
            FileLock(tmp_path / "taught" / ".lock"),
            pytest.raises(TrainingError, match="another process is teaching"),
        ):
            taught(tmp_path)
        assert taught(tmp_path).usable == 6

    def test_that_of_another_teacher_or_of_other_photos_is_left_alone(self, tmp_path: Path) -> None:
        save_photos(tmp_path / "kitchen")
        taught(tmp_path)
        with pytest.raises(TrainingError, match="another teacher or of other photos"):
            taught(tmp_path, WallTeacher(weights="other"))
        (tmp_path / "taught" / "teacher.json").unlink()
        with pytest.raises(TrainingError, match="another teacher, other photos"):
            taught(tmp_path, WallTeacher(weights="other"))

    def test_one_with_other_things_in_it(self, tmp_path: Path) -> None:
        save_photos(tmp_path / "kitchen")
        (tmp_path / "taught").mkdir()
        (tmp_path / "taught" / "thesis.tex").write_text("…")
        with pytest.raises(TrainingError, match=r"holds 'thesis\.tex'"):
            taught(tmp_path)

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("format", 99),
            ("images", 0),
            ("left_out", [7]),
            ("shards", []),
            ("clips", [{"clip": "", "images": 6, "scale": 0.0}]),
            ("teacher", {"name": "x"}),
            ("keeping", {"keep": 2, "range_m": [0, 1]}),
            ("extra", 1),
        ],
    )
    def test_a_damaged_record(self, tmp_path: Path, key: str, value: object) -> None:
        save_photos(tmp_path / "kitchen")
        taught(tmp_path)
        path = tmp_path / "taught" / "teacher.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
        with pytest.raises(DataError, match=r"teacher\.json: damaged"):
            opened(tmp_path / "taught")
        path.write_text("{")
        with pytest.raises(DataError, match=r"teacher\.json: damaged"):
            opened(tmp_path / "taught")
        path.unlink()
        assert taught(tmp_path).usable == 6

    def test_photos_that_changed_since(self, tmp_path: Path) -> None:
        kitchen = save_photos(tmp_path / "kitchen")
        taught(tmp_path)
        Image.fromarray(photo(9)).save(kitchen / "rgb" / "03.png")
        with pytest.raises(DataError, match=r"03\.png has changed since"):
            fingerprint(opened(tmp_path / "taught"), 3)
        (kitchen / "rgb" / "03.png").unlink()
        with pytest.raises(DataError, match="now there are 5"):
            opened(tmp_path / "taught")
        shutil.rmtree(kitchen)
        with pytest.raises(DataError, match="cannot be opened"):
            opened(tmp_path / "taught")

    def test_a_shard_of_another_time(self, tmp_path: Path) -> None:
        save_photos(tmp_path / "kitchen")
        taught(tmp_path)
        path = tmp_path / "taught" / "teacher.json"
        record = json.loads(path.read_text())
        record["shards"][0]["sha256"] = "0" * 64
        path.write_text(json.dumps(record))
        with pytest.raises(DataError, match="not the file that was written"):
            opened(tmp_path / "taught")[0]


def test_errors_are_ours() -> None:
    assert issubclass(TeacherError, SpaceClipError)
