"""`spaceclip annotate` on data sets that lerobot itself wrote: what is written, kept, gone on with, and refused."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

WHY = "needs lerobot 0.6 or newer with its data sets: pip install lerobot[dataset]"
pytest.importorskip("lerobot.configs.video", reason=WHY)
for package in ("datasets", "av", "pandas"):
    pytest.importorskip(package, reason=WHY)
LeRobotDataset = pytest.importorskip("lerobot.datasets.lerobot_dataset").LeRobotDataset

from filelock import FileLock  # noqa: E402
from recorded_sets import FRONT, HEIGHT, LENGTHS, TASKS, WIDTH, WRIST, files, head, host, record  # noqa: E402

from spaceclip_plugin import attach_depth_head  # noqa: E402
from spaceclip_plugin.bridges.lerobot import LeRobotData  # noqa: E402
from spaceclip_plugin.bridges.lerobot.annotation import annotate as annotating  # noqa: E402
from spaceclip_plugin.cli import main  # noqa: E402
from spaceclip_plugin.errors import ConfigError, DataError  # noqa: E402
from spaceclip_plugin.evaluation import predict  # noqa: E402

DEPTH = f"{FRONT}_depth"


@pytest.fixture(scope="module", params=[False, True], ids=["images", "video"])
def recorded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(tmp_path_factory.mktemp("data") / "kitchen", video=request.param)


@pytest.fixture(scope="module")
def saved_head(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("head") / "head"
    head().save_pretrained(folder)
    return folder


def words(source: Path, out: Path, saved_head: Path, *more: str) -> list[str]:
    data = ["--data", f"lerobot:{source}", "--camera", "front", "--out", str(out), "--batch", "2"]
    return ["annotate", "--host", "python:recorded_sets:host", "--head", str(saved_head), *data, *more]


def annotated(source: Path, out: Path, saved_head: Path, *more: str) -> Path:
    assert main(words(source, out, saved_head, *more)) == 0
    return out


def expected_m(source: Path, saved_head: Path) -> np.ndarray:
    """(N, H, W) metres that the head gives of the photos as they are stored."""
    frames = LeRobotDataset("someone/kitchen", root=source, return_uint8=True)
    photos = [frames[index][FRONT] for index in range(len(frames))]
    photos = [photo if photo.dtype == torch.uint8 else (photo * 255).round().byte() for photo in photos]
    arrays = [photo.permute(1, 2, 0).contiguous().numpy() for photo in photos]
    with attach_depth_head(host(), head()) as attachment:
        maps = [predict(attachment, [photo], output_hw=(HEIGHT, WIDTH)) for photo in arrays]
    return np.concatenate([(depth.depth_m * depth.valid).numpy() for depth in maps])


@pytest.mark.parametrize("store", ["image", "video"])
def test_depth_comes_back_as_it_was_predicted(recorded: Path, saved_head: Path, tmp_path: Path, store: str) -> None:
    before = files(recorded)
    out = annotated(recorded, tmp_path / "rich", saved_head, "--store", store)
    assert files(recorded) == before
    assert not (tmp_path / "rich.parts").exists()
    source = LeRobotData(str(out), depth="predicted").open(units_per_metre=1.0)
    truth_m = expected_m(recorded, saved_head)
    assert len(source) == len(truth_m) == sum(LENGTHS)
    step_m = 0.0005 if store == "image" else 0.004
    for index, truth in enumerate(truth_m):
        depth_m = source[index].depth_m
        assert depth_m.shape == (HEIGHT, WIDTH)
        assert np.abs(depth_m - truth).max() <= step_m + 1e-6
        np.testing.assert_array_equal(depth_m > 0, truth > 0)
    assert truth_m.std() > 0.01


def test_depth_beyond_the_heads_range_is_stored_as_its_end_and_told(
    recorded: Path, saved_head: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth_m = expected_m(recorded, saved_head)
    near_m, far_m = (float(value) for value in np.quantile(truth_m, (0.1, 0.8)))
    narrow = head()
    narrow.config = dataclasses.replace(narrow.config, depth_range_m=(near_m, far_m))
    narrow.save_pretrained(tmp_path / "narrow")
    assert main([*words(recorded, tmp_path / "rich", tmp_path / "narrow"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["beyond"] == pytest.approx(0.3, abs=0.02)
    source = LeRobotData(str(tmp_path / "rich"), depth="predicted").open(units_per_metre=1.0)
    for index, truth in enumerate(truth_m):
        assert np.abs(source[index].depth_m - truth.clip(near_m, far_m)).max() < 0.002


def test_everything_else_stays_as_it_was(recorded: Path, saved_head: Path, tmp_path: Path) -> None:
    out = annotated(recorded, tmp_path / "rich", saved_head)
    one, other = (LeRobotDataset("someone/kitchen", root=root) for root in (recorded, out))
    assert set(other.features) - set(one.features) == {DEPTH}
    for index in range(len(one)):
        before, after = one[index], other[index]
        for key in set(before) - {"task"}:
            assert torch.equal(before[key], after[key]), key
        assert before["task"] == after["task"]
    assert [other[index]["task"] for index in (0, 3, 8)] == list(TASKS)
    kept = files(recorded)
    videos = {name: digest for name, digest in files(out).items() if name.startswith("videos/") and DEPTH not in name}
    assert videos == {name: digest for name, digest in kept.items() if name.startswith("videos/")}
    for key, stats in one.meta.stats.items():
        for name, value in stats.items():
            np.testing.assert_array_equal(value, other.meta.stats[key][name])
    depths = np.stack([other[index][DEPTH].numpy() for index in range(len(other))])
    assert other.meta.stats[DEPTH]["max"].item() == pytest.approx(depths.max(), rel=2e-3)
    assert other.meta.stats[DEPTH]["mean"].item() == pytest.approx(depths.mean(), rel=2e-3)


def test_lerobots_own_tools_take_it(recorded: Path, saved_head: Path, tmp_path: Path) -> None:
    from lerobot.datasets.dataset_tools import delete_episodes

    out = annotated(recorded, tmp_path / "rich", saved_head)
    fewer = delete_episodes(LeRobotDataset("someone/kitchen", root=out), [0], output_dir=tmp_path / "fewer")
    source = LeRobotData(str(fewer.root), depth="predicted").open(units_per_metre=1.0)
    assert len(source) == sum(LENGTHS[1:])
    with pytest.raises(DataError, match="not measured, a head predicted it"):  # the mark stays
        LeRobotData(str(fewer.root)).open(units_per_metre=1.0)


def test_what_is_asked_for_is_written_beside(recorded: Path, saved_head: Path, tmp_path: Path) -> None:
    extras = ("--with", "uncertainty", "validity", "three-channels")
    out = annotated(recorded, tmp_path / "rich", saved_head, *extras, "--intrinsics", "60,60,32,24")
    frames = LeRobotDataset("someone/kitchen", root=out, depth_output_unit="m")
    with attach_depth_head(host(), head()) as attachment:
        maps = predict(attachment, [np.zeros((HEIGHT, WIDTH, 3), np.uint8)], output_hw=(HEIGHT, WIDTH))
    item = frames[4]
    assert item[f"{DEPTH}_uncertainty"].shape == (1, HEIGHT, WIDTH)
    assert maps.uncertainty_m is not None
    assert 0 < float(item[f"{DEPTH}_uncertainty"].median()) < 10
    assert set(np.unique(item[f"{DEPTH}_valid"].numpy())) <= {0.0, 1.0}
    grey = item[f"{DEPTH}_rgb"]
    assert grey.shape == (3, HEIGHT, WIDTH)
    near_m, far_m = frames.features[f"{DEPTH}_rgb"]["info"]["spaceclip_log_range_m"]
    values = 1 + 254 * torch.log(far_m / item[DEPTH][0]) / np.log(far_m / near_m)
    assert float((grey[0] * 255 - values).abs().median()) < 3
    told = json.loads((out / "meta" / "intrinsics_front.json").read_text())
    assert told == {"fx": 60.0, "fy": 60.0, "cx": 32.0, "cy": 24.0, "width": WIDTH, "height": HEIGHT}


def test_the_record_says_whose_depth_it_is(
    recorded: Path, saved_head: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words(recorded, tmp_path / "rich", saved_head), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["episodes"], said["frames"], said["predicted_frames"]) == (len(LENGTHS), sum(LENGTHS), sum(LENGTHS))
    assert said["frames_per_second"] > 0
    kept = json.loads((tmp_path / "rich" / "meta" / "spaceclip_depth.json").read_text())
    assert kept == said["record"]
    assert "not measured" in kept["depth"]
    assert (kept["head"]["trained_on"], kept["host"]["name"]) == ("a room", "python:recorded_sets:host")
    mark = LeRobotDataset("someone/kitchen", root=tmp_path / "rich").features[DEPTH]["info"]["spaceclip_predicted_by"]
    assert mark == kept["head"]["sha256"]


def test_predicted_depth_is_no_truth(recorded: Path, saved_head: Path, tmp_path: Path) -> None:
    out = annotated(recorded, tmp_path / "rich", saved_head)
    with pytest.raises(DataError, match=f"{DEPTH} is not measured, a head predicted it"):
        LeRobotData(str(out)).open(units_per_metre=1.0)
    with pytest.raises(ConfigError, match="depth must be one of"):
        LeRobotData(str(out), depth="guessed")


class TestAStoppedRun:
    @pytest.fixture
    def stopped(
        self,
        recorded: Path,
        saved_head: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> tuple[Path, Path]:
        """Source and output of a run that was stopped in its second episode."""
        calls = iter(range(100))

        def failing(*args: Any, **settings: Any) -> Any:
            if next(calls) == 4:  # the probe, two batches of the first episode, one of the second
                raise KeyboardInterrupt
            return predict(*args, **settings)

        with monkeypatch.context() as patch:
            patch.setattr(annotating, "predict", failing)
            assert main(words(recorded, tmp_path / "rich", saved_head)) == 130
        assert "the same command goes on" in capsys.readouterr().err
        return recorded, tmp_path / "rich"

    def test_goes_on_where_it_was(
        self, stopped: tuple[Path, Path], saved_head: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        source, out = stopped
        assert not out.exists()
        kept = {entry.name for entry in (tmp_path / "rich.parts").iterdir()}
        assert kept - {".lock"} == {"annotation.json", "episode-000000"}
        assert main([*words(source, out, saved_head), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["predicted_frames"] == sum(LENGTHS[1:])
        whole = annotated(source, tmp_path / "at-once", saved_head)
        one, other = (LeRobotData(str(root), depth="predicted").open(units_per_metre=1.0) for root in (out, whole))
        for index in range(len(one)):
            np.testing.assert_array_equal(one[index].depth_m, other[index].depth_m)

    def test_is_not_gone_on_with_by_another(
        self, stopped: tuple[Path, Path], saved_head: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        source, out = stopped
        other = tmp_path / "other-head"
        head(attention=2).save_pretrained(other)
        assert main(words(source, out, other)) == 1
        assert "head.sha256" in capsys.readouterr().err
        assert main(words(source, out, saved_head, "--flip")) == 1
        assert "flip" in capsys.readouterr().err
        elsewhere = record(tmp_path / "hall", video=False, lengths=(2,))
        assert main(words(elsewhere, out, saved_head)) == 1
        assert "source.sha256" in capsys.readouterr().err

    def test_keeps_others_off_while_it_runs(
        self, stopped: tuple[Path, Path], saved_head: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        source, out = stopped
        with FileLock(out.with_name("rich.parts") / ".lock"):
            assert main(words(source, out, saved_head)) == 1
        assert "another run is writing" in capsys.readouterr().err


def test_a_full_disk_loses_nothing(
    recorded: Path,
    saved_head: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from PIL import Image

    saved = Image.Image.save
    written = iter(range(1000))

    def cut(self: Any, path: Any, **settings: Any) -> None:
        saved(self, path, **settings)
        if next(written) == LENGTHS[0] + 1:  # in the second episode
            content = Path(path).read_bytes()
            Path(path).write_bytes(content[: len(content) // 2])

    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "save", cut)
        assert main(words(recorded, tmp_path / "rich", saved_head)) == 1
    assert "free disk space" in capsys.readouterr().err
    assert not (tmp_path / "rich").exists()
    assert main([*words(recorded, tmp_path / "rich", saved_head), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["predicted_frames"] == sum(LENGTHS[1:])


def test_a_disk_that_is_full_when_all_is_joined_loses_nothing(
    recorded: Path,
    saved_head: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("shutil.copyfile", full)
        assert main(words(recorded, tmp_path / "rich", saved_head)) == 1
    assert "the depth of all episodes is kept" in capsys.readouterr().err
    assert not (tmp_path / "rich").exists()
    assert main([*words(recorded, tmp_path / "rich", saved_head), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["predicted_frames"] == 0


def test_frames_of_several_sizes_are_named(
    saved_head: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    root = record(tmp_path / "kitchen", video=False, lengths=(3,))
    [path] = (root / "data").rglob("*.parquet")
    table = pq.ParquetFile(path).read()
    rows = table.column(FRONT).to_pylist()
    smaller = io.BytesIO()
    Image.open(io.BytesIO(rows[1]["bytes"])).resize((32, 24)).save(smaller, "png")
    rows[1]["bytes"] = smaller.getvalue()
    column = pa.array(rows, table.schema.field(FRONT).type)
    pq.write_table(table.set_column(table.schema.get_field_index(FRONT), table.schema.field(FRONT), column), path)
    assert main(words(root, tmp_path / "rich", saved_head)) == 1
    assert "episode 0 frame 1 observation.images.front is 24x32 (HxW)" in capsys.readouterr().err


def test_an_untrained_head_is_refused(recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    head(trained=False).save_pretrained(tmp_path / "head")
    assert main(words(recorded, tmp_path / "rich", tmp_path / "head")) == 1
    assert "the head was not trained" in capsys.readouterr().err
    assert not (tmp_path / "rich.parts").exists()


@pytest.mark.slow
def test_processes_share_the_episodes(recorded: Path, saved_head: Path, tmp_path: Path) -> None:
    alone = annotated(recorded, tmp_path / "alone", saved_head)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "-m", "spaceclip_plugin.cli"]
    paths = os.pathsep.join(filter(None, sys.path))
    done = subprocess.run(
        [*launcher, *words(recorded, tmp_path / "shared", saved_head, "--device", "cpu")],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert f"{sum(LENGTHS)} frames predicted in this run" in done.stdout
    one, other = (
        LeRobotData(str(root), depth="predicted").open(units_per_metre=1.0) for root in (alone, tmp_path / "shared")
    )
    assert len(one) == len(other) == sum(LENGTHS)
    for index in range(len(one)):
        np.testing.assert_array_equal(one[index].depth_m, other[index].depth_m)


@pytest.mark.slow
def test_lerobots_trainer_trains_a_policy_on_it(saved_head: Path, tmp_path: Path) -> None:
    source = record(tmp_path / "kitchen", video=False)
    out = annotated(source, tmp_path / "rich", saved_head, "--with", "three-channels")
    picture = {"type": "VISUAL", "shape": [3, HEIGHT, WIDTH]}
    seen = {
        "observation.state": {"type": "STATE", "shape": [2]},
        FRONT: picture,
        f"{DEPTH}_rgb": picture,
    }
    policy = {
        "type": "act", "device": "cpu", "push_to_hub": "false", "pretrained_backbone_weights": "null", "dim_model": 16,
        "n_heads": 2, "dim_feedforward": 16, "n_encoder_layers": 1, "n_vae_encoder_layers": 1, "latent_dim": 4,
        "chunk_size": 2, "n_action_steps": 2, "input_features": json.dumps(seen),
    }  # fmt: skip
    flags = {
        "dataset.repo_id": "someone/kitchen", "dataset.root": out, "dataset.depth_output_unit": "m", "steps": 2,
        "batch_size": 2, "num_workers": 0, "save_checkpoint": "true", "save_freq": 2, "wandb.enable": "false",
        "output_dir": tmp_path / "run", **{f"policy.{name}": value for name, value in policy.items()},
    }  # fmt: skip
    command = [sys.executable, "-m", "lerobot.scripts.lerobot_train", *(f"--{key}={flags[key]}" for key in flags)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    [config] = (tmp_path / "run").rglob("pretrained_model/config.json")
    assert set(json.loads(config.read_text())["input_features"]) == set(seen)


def test_a_whole_data_set_is_left_alone(
    recorded: Path, saved_head: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = annotated(recorded, tmp_path / "rich", saved_head)
    before = files(out)
    capsys.readouterr()
    assert main([*words(recorded, out, saved_head), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["predicted_frames"] == 0
    assert main(words(recorded, out, saved_head, "--unit", "m", "--store", "image")) == 1
    assert "storage." in capsys.readouterr().err
    assert files(out) == before


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (("--camera", "wrst"), "no camera 'wrst' (did you mean 'wrist'?)"),
        (("--data", "folder:somewhere"), "as --data lerobot:ID"),
        (("--intrinsics", "60,60,320,240"), "principal point"),
        (("--batch", "0"), "batch must be"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(
    recorded: Path, saved_head: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: Any, reason: str
) -> None:
    assert main(words(recorded, tmp_path / "rich", saved_head, *more)) == 1
    assert reason in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_camera_that_has_depth_keeps_it(
    recorded: Path, saved_head: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = annotated(recorded, tmp_path / "rich", saved_head)
    assert main(words(out, tmp_path / "richer", saved_head)) == 1
    assert "camera 'front' has depth already" in capsys.readouterr().err
    both = annotated(out, tmp_path / "richer", saved_head, "--camera", "wrist")
    assert {DEPTH, f"{WRIST}_depth"} <= set(LeRobotDataset("someone/kitchen", root=both).features)
