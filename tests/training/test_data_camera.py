"""Training data of several cameras becomes that of one, and the head is judged in each camera's own metres."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_world import PROTOCOL, QUIET, RESUMED, cached, scenes, settings, tiny_head, tiny_host, tiny_mixer
from torch import nn

from spaceclip_plugin import attach_depth_head
from spaceclip_plugin.data import DepthList, DepthSample, Mixture, Version
from spaceclip_plugin.depth import Intrinsics
from spaceclip_plugin.errors import ConfigError, DataError, TrainingError
from spaceclip_plugin.evaluation import evaluate, get_protocol
from spaceclip_plugin.head.decoder import HeadOutput
from spaceclip_plugin.training import DepthTrainer, RunOptions, TrainingResult
from spaceclip_plugin.training.data_camera import DataCamera, data_camera, focal_length_of
from spaceclip_plugin.training.live_features import LiveFeatures
from spaceclip_plugin.training.processes import Processes
from spaceclip_plugin.training.source_checks import checked_sources
from spaceclip_plugin.training.validation_set import ValidationSet

ONE = Processes(torch.device("cpu"))
WIDE, LONG = (0.8, 0.8), (1.6, 1.6)


def seen_by(focal_length: tuple[float, float] | None, *, depth_m: float = 2.0, name: str = "wall") -> DepthSample:
    """A wall, as a camera of that focal length keeps it; every sample is another photo."""
    seed = zlib.crc32(repr((focal_length, depth_m, name)).encode())
    photo = np.random.default_rng(seed).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    camera = None if focal_length is None else Intrinsics.from_focal_length(focal_length, (32, 32))
    return DepthSample(photo, np.full((32, 32), depth_m, np.float32), name, camera)


def found(samples: list[DepthSample], **told: object) -> DataCamera:
    return data_camera(samples, PROTOCOL, ONE, **told)


class TestTheCameraOfARun:
    def test_one_camera_is_kept_to_the_bit(self) -> None:
        camera = (0.1 + 0.2, 518.8579 / 480)
        samples = [seen_by(camera, name=f"{number}") for number in range(7)]
        run = found(samples)
        assert run == DataCamera(samples[0].intrinsics.focal_length)
        assert {run.to_head(sample, PROTOCOL) for sample in samples} == {1.0}
        assert {run.from_head(sample, PROTOCOL) for sample in samples} == {1.0}

    def test_it_is_the_median_of_each_axis(self) -> None:
        lenses = [(0.5, 1.5), (0.9, 0.7), (1.0, 0.6), (3.0, 0.9), (0.8, 0.8)]
        assert found([seen_by(lens) for lens in lenses]).focal_length == pytest.approx((0.9, 0.8))

    def test_a_trained_heads_own_goes_before(self) -> None:
        assert found([seen_by(WIDE)], head=LONG) == DataCamera(LONG)

    def test_each_part_of_a_mixture_is_looked_at(self) -> None:
        many = [seen_by(WIDE, name=f"{number}") for number in range(300)]
        with pytest.raises(DataError, match=r"such as 0, and others none, such as odd.*--focal-length"):
            data_camera(Mixture([many, [seen_by(None, name="odd")]]), PROTOCOL, ONE)

    def test_the_crop_that_the_host_sees_counts(self) -> None:
        kitti = DepthSample(
            np.zeros((376, 1241, 3), np.uint8), np.ones((376, 1241), np.float32), "kitti",
            Intrinsics(718.0, 718.0, 620.5, 188.0, (376, 1241)),
        )  # fmt: skip
        protocol = get_protocol("kitti-eigen-crop")
        assert focal_length_of(kitti, protocol) == (718.0 / 1216, 718.0 / 352)
        untold = dataclasses.replace(kitti, intrinsics=None)
        told = focal_length_of(untold, protocol, untold=(718.0 / 1241, 718.0 / 376))
        assert told == pytest.approx((718.0 / 1216, 718.0 / 352), rel=1e-12)

    def test_intrinsics_at_another_resolution_are_the_same_camera(self) -> None:
        sample = seen_by(WIDE)
        finer = dataclasses.replace(sample, intrinsics=sample.intrinsics.resized((320, 320)))
        assert focal_length_of(finer, PROTOCOL) == pytest.approx(WIDE)

    @pytest.mark.parametrize(
        ("camera", "named"),
        [
            (Intrinsics(26.0, 26.0, 16.0, 12.0, (24, 32)), "24x32"),
            (Intrinsics(0.8, 0.8, 16.0, 16.0, (32, 32)), "0.025"),
            (Intrinsics(3e4, 3e4, 16.0, 16.0, (32, 32)), "937.5"),
        ],
    )
    @pytest.mark.parametrize("place", ["train", "validation"])
    def test_intrinsics_of_no_camera_are_refused_by_name(self, camera: Intrinsics, named: str, place: str) -> None:
        sources = {"train": [seen_by(WIDE)], "validation": [seen_by(WIDE, name="other")]}
        sources[place] = [dataclasses.replace(sources[place][0], intrinsics=camera, name="spoilt.png")]
        with pytest.raises(DataError, match=rf"spoilt\.png.*{named}"):
            checked_sources(sources, PROTOCOL, ONE)


class TestTargets:
    def test_a_crop_and_its_lens_say_the_same(self) -> None:
        """An image cropped to its middle half is one through a lens twice as long."""
        sample = seen_by(WIDE)
        half = Version(top=0.25, left=0.25, height=0.5, width=0.5)
        cropped = DepthSample(
            half.image(sample.image), sample.depth_m[8:24, 8:24], "half", half.intrinsics(sample.intrinsics)
        )
        run = DataCamera(WIDE)
        assert focal_length_of(cropped, PROTOCOL) == pytest.approx(LONG)
        target_m = settings(camera=run).depth_m(cropped)
        assert np.array_equal(target_m, half.target(sample.depth_m, (16, 16)))
        assert float(target_m[0, 0]) == 1.0

    def test_a_stretch_along_one_axis_counts_half(self) -> None:
        assert DataCamera(WIDE).to_head(seen_by((0.8, 3.2)), PROTOCOL) == pytest.approx(0.5)

    def test_depth_beyond_the_range_stays_unknown_and_what_is_scaled_beyond_it_counts(self) -> None:
        sample = seen_by(WIDE)
        sample.depth_m[0] = 12.0
        sample.depth_m[1] = 9.0
        target_m = settings(camera=DataCamera(LONG)).depth_m(sample)
        assert target_m[:3, 0].tolist() == [0.0, 18.0, 4.0]

    def test_cached_and_live_targets_are_of_the_camera(self, tmp_path: Path) -> None:
        samples = [seen_by(WIDE), seen_by(LONG)]
        host = tiny_host().eval()
        with attach_depth_head(host, tiny_head(host)) as attachment:
            run = DataCamera(WIDE)
            for stream in (
                LiveFeatures(attachment, samples, settings=settings(camera=run)),
                cached(attachment, samples, tmp_path, camera=run),
            ):
                target_m = stream.load([0, 1], [0, 0])["target_m"]
                assert target_m.flatten(1).unique(dim=1).tolist() == [[2.0], [1.0]]

    def test_a_cache_is_of_one_camera(self, tmp_path: Path) -> None:
        samples = [seen_by(WIDE), seen_by(LONG)]
        host = tiny_host().eval()
        cameras = [None, DataCamera(WIDE), DataCamera(LONG), DataCamera(WIDE, untold=LONG)]
        with attach_depth_head(host, tiny_head(host)) as attachment:
            for count, camera in enumerate(cameras, start=1):
                cached(attachment, samples, tmp_path, keyed=True, camera=camera)
                assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == count
            untold = [seen_by(None), seen_by(None, name="other")]
            cached(attachment, untold, tmp_path, keyed=True)
            cached(attachment, untold, tmp_path, keyed=True, camera=DataCamera(WIDE, assumed=True))
            assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 1 + len(cameras)


class TestDataWithoutIntrinsics:
    def test_a_camera_of_60_degrees_is_assumed_and_said(self, caplog: pytest.LogCaptureFixture) -> None:
        photo, depth_m = np.zeros((48, 64, 3), np.uint8), np.ones((48, 64), np.float32)
        run = found([DepthSample(photo, depth_m, "untold")])
        focal = 0.5 / math.tan(math.radians(30))
        assert run == DataCamera((focal, pytest.approx(focal * 64 / 48)), assumed=True)
        [said] = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
        assert "0.866 x 1.155" in said
        assert "60 x 47 degrees" in said
        assert "--focal-length" in said
        assert run.to_head(DepthSample(photo, depth_m, "untold"), PROTOCOL) == 1.0

    @pytest.mark.parametrize("run", [DataCamera(WIDE), DataCamera(WIDE, assumed=True)])
    def test_a_sample_unlike_those_looked_at_is_refused_when_it_is_read(self, run: DataCamera) -> None:
        odd = seen_by(LONG if run.assumed else None, name="odd.png")
        with pytest.raises(DataError, match=r"^odd\.png has .*--focal-length"):
            settings(camera=run).depth_m(odd)

    def test_every_line_of_a_list_is_looked_at(self, tmp_path: Path) -> None:
        lines = []
        for number in range(60):
            Image.fromarray(np.full((4, 6, 3), number, np.uint8)).save(tmp_path / f"{number}.png")
            Image.fromarray(np.full((4, 6), 1500, np.uint16)).save(tmp_path / f"{number}d.png")
            lines.append(f"{number}.png {number}d.png{'' if number == 58 else ' 5.0'}")
        (tmp_path / "train.txt").write_text("\n".join(lines))
        with pytest.raises(DataError, match=r"such as train\.txt:1 .*such as train\.txt:59 58\.png"):
            data_camera(DepthList(tmp_path / "train.txt"), PROTOCOL, ONE)

    def test_the_focal_length_that_is_said_is_theirs_alone(self, caplog: pytest.LogCaptureFixture) -> None:
        samples = [seen_by(WIDE), seen_by(None), seen_by(WIDE, name="two")]
        run = found(samples, untold=LONG)
        assert (run.focal_length, run.untold, run.assumed) == (pytest.approx(WIDE), LONG, False)
        scales = [run.to_head(sample, PROTOCOL) for sample in samples]
        assert scales == [1.0, pytest.approx(0.5), 1.0]
        assert not [record for record in caplog.records if record.levelno == logging.WARNING]
        assert found([samples[1]], untold=LONG) == DataCamera(LONG, LONG)
        found([samples[0]], untold=LONG)
        assert "there is none among the training samples" in caplog.text

    def test_validation_without_it_is_counted(self, caplog: pytest.LogCaptureFixture) -> None:
        validation = [seen_by(None, name=f"{number}") for number in range(3)] + [seen_by(LONG, name="3")]
        checked_sources({"train": [seen_by(WIDE)], "validation": validation}, PROTOCOL, ONE)
        assert "3 of 4 validation samples have no intrinsics" in caplog.text
        caplog.clear()
        checked_sources({"train": [seen_by(None)], "validation": validation}, PROTOCOL, ONE)
        assert "1 of 4 validation samples have intrinsics and no training sample has" in caplog.text


class Wall(nn.Module):
    """A decoder that sees the wall at 2 m through its own camera, with a spread of 10 %."""

    predicts_uncertainty = True

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(()))
        self.factor = 1.0

    def forward(self, features: object, output_hw: tuple[int, int], *, auxiliary: bool) -> HeadOutput:
        depth_m = torch.full((1, *output_hw), 2.0) * self.gain
        return HeadOutput(depth_m, (), 0.1 * self.factor * depth_m)

    def rescale_uncertainty(self, factor: float) -> None:
        self.factor *= factor


class TestTheValidationSet:
    @pytest.fixture
    def judged(self) -> tuple[ValidationSet, object]:
        samples = [seen_by(WIDE, depth_m=2.0), seen_by(LONG, depth_m=4.0), seen_by(None, depth_m=2.0)]
        host = tiny_host().eval()
        attachment = attach_depth_head(host, tiny_mixer(host))
        stream = LiveFeatures(attachment, samples, settings=settings(targets=False))
        head = attachment.head
        head.decoder = Wall()
        return ValidationSet(stream, samples, PROTOCOL, ONE, DataCamera(WIDE)), head

    def test_it_scores_in_each_cameras_metres(self, judged: tuple) -> None:
        validation_set, head = judged
        assert validation_set.metrics(head).abs_rel == pytest.approx(0.0, abs=1e-6)
        unscaled = dataclasses.replace(validation_set, camera=None)
        assert unscaled.metrics(head).abs_rel == pytest.approx(0.5 / 3)
        rows = validation_set.pictures(head, 3)
        assert [float(row.prediction_m[0, 0]) for row in rows] == pytest.approx([2.0, 4.0, 2.0])

    def test_it_calibrates_in_them(self, judged: tuple) -> None:
        validation_set, head = judged
        calibration = validation_set.calibrate(head)
        assert calibration is not None
        assert calibration.before == {0.5: 1.0, 0.9: 1.0}
        unscaled = dataclasses.replace(validation_set, camera=None).calibrate(head)
        assert unscaled is not None
        assert unscaled.before == {0.5: pytest.approx(2 / 3), 0.9: pytest.approx(2 / 3)}


def fit(
    out: Path, train: list[DepthSample], *, told: object = None, resume: bool = False, epochs: int = RESUMED.epochs
) -> TrainingResult:
    host = tiny_host()
    recipe = dataclasses.replace(RESUMED, epochs=epochs)
    trainer = DepthTrainer(host, tiny_mixer(host), recipe=recipe, protocol=PROTOCOL, focal_length=told)
    options = RunOptions(progress=False, resume=resume)
    return trainer.fit(train, scenes(3, seed=1), out, trained_on="x", test=scenes(3, seed=2), options=options)


class TestARun:
    def test_it_tells_its_camera(self, tmp_path: Path) -> None:
        train = scenes(8)
        result = fit(tmp_path / "out", train)
        focal_length = train[0].intrinsics.focal_length
        assert result.head.config.focal_length == focal_length
        assert not result.head.config.focal_length_assumed
        record = json.loads((tmp_path / "out" / "run.json").read_text())
        assert record["camera"] == {"focal_length": list(focal_length), "untold": None, "assumed": False}
        assert record["head"]["focal_length"] == list(focal_length)

    def test_one_without_intrinsics_ends_with_the_same_weights(self, tmp_path: Path) -> None:
        # One epoch: of several, the best is chosen in metres of a camera that one of them assumes.
        told = fit(tmp_path / "told", scenes(8), epochs=1)
        plain = [dataclasses.replace(sample, intrinsics=None) for sample in scenes(8)]
        untold = fit(tmp_path / "untold", plain, epochs=1)
        assert untold.head.config.focal_length_assumed
        for name, value in told.head.state_dict().items():
            if "spread" not in name:  # calibrated on images of a camera that one of them knows
                assert torch.equal(value, untold.head.state_dict()[name]), name

    def test_test_data_without_intrinsics_is_of_the_camera_that_was_said(self, tmp_path: Path) -> None:
        host = tiny_host()
        train, test = scenes(8), [dataclasses.replace(one, intrinsics=None) for one in scenes(3, seed=2)]
        trainer = DepthTrainer(host, tiny_mixer(host), recipe=RESUMED, protocol=PROTOCOL, focal_length=LONG)
        result = trainer.fit(train, scenes(3, seed=1), tmp_path / "out", trained_on="x", test=test, options=QUIET)
        camera = Intrinsics.from_focal_length(LONG, (32, 32))
        with attach_depth_head(host.eval(), result.head) as depth:
            told = [dataclasses.replace(one, intrinsics=camera) for one in test]
            assert evaluate(depth, told, protocol=PROTOCOL).mean == result.test
            assert evaluate(depth, test, protocol=PROTOCOL).mean != result.test

    @pytest.mark.parametrize("told", [(518.8, 518.8), (0.8,), 0.8, (float("nan"), 0.8), (-0.8, 0.8)])
    def test_what_is_no_focal_length_is_refused(self, told: object) -> None:
        host = tiny_host()
        with pytest.raises(ConfigError, match="focal_length"):
            DepthTrainer(host, tiny_mixer(host), recipe=RESUMED, protocol=PROTOCOL, focal_length=told)

    def test_nothing_is_written_where_data_is_mixed(self, tmp_path: Path) -> None:
        first, *others = scenes(8)
        with pytest.raises(DataError, match="--focal-length"):
            fit(tmp_path / "out", [dataclasses.replace(first, intrinsics=None), *others])
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize(
        ("spoil", "named"),
        [
            (lambda record: record.pop("camera"), "did not bring its data to one camera"),
            (lambda record: record["camera"].update(focal_length=[0.5, 0.5]), r"its camera\.focal_length was \[0\.5"),
            (lambda record: record["camera"].update(untold=[0.5, 0.5]), r"its camera\.untold was \[0\.5"),
        ],
    )
    def test_a_run_of_another_camera_is_not_continued(self, tmp_path: Path, spoil: object, named: str) -> None:
        fit(tmp_path / "out", scenes(8))
        record = json.loads((tmp_path / "out" / "run.json").read_text())
        record["finished"] = False
        spoil(record)
        (tmp_path / "out" / "run.json").write_text(json.dumps(record))
        with pytest.raises(TrainingError, match=named):
            fit(tmp_path / "out", scenes(8), resume=True)
