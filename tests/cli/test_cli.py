"""The commands as a user runs them: train, eval, predict, convert, demo; and what they say when something is wrong."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from spaceclip_plugin import DepthHead, __version__
from spaceclip_plugin.cli import main
from spaceclip_worlds.render.tabletop import TabletopScenes

HOST = ["--host", "python:users_policy:build"]
WHOLE_IMAGE = ["--protocol", "spaceclip-nyu"]
METRICS = {"abs_rel", "sq_rel", "rmse", "rmse_log", "log10", "silog", "delta1", "delta2", "delta3"}
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parent)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*argv: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([str(word) for word in argv])
        return code, *capsys.readouterr()

    return run


def write_list(folder: Path, count: int, seed: int) -> Path:
    scenes = TabletopScenes(count, image_hw=(36, 48), seed=seed)
    lines = []
    for i in range(count):
        scene = scenes[i]
        Image.fromarray(scene.image).save(folder / f"{seed}_{i}.png")
        Image.fromarray((scene.depth_m * 1000).astype(np.uint16)).save(folder / f"{seed}_{i}_depth.png")
        lines.append(f"{seed}_{i}.png {seed}_{i}_depth.png 50.0")
    path = folder / f"list_{seed}.txt"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def lists(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("data")
    return write_list(folder, 16, 0), write_list(folder, 4, 1)


@pytest.fixture(scope="module")
def trained(lists: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "run"
    train, val = map(str, lists)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(Path(__file__).parent)
        argv = [*HOST, *WHOLE_IMAGE, "--data", train, "--val", val, "--out", str(out), "--epochs", "2"]
        assert main(["train", *argv, "--batch-size", "8", "--lr", "1e-3", "--json"]) == 0
    return out


class TestTrain:
    def test_the_run_and_its_head(self, trained: Path) -> None:
        record = json.loads((trained / "run.json").read_text())
        assert record["recipe"]["epochs"] == 2
        assert record["host_digest_before"] == record["host_digest_after"]
        assert len((trained / "metrics.jsonl").read_text().splitlines()) == 2
        head = DepthHead.from_pretrained(trained / "head")
        assert head.trained
        assert head.config.base_model == "python:users_policy:build"
        assert "list_0.txt" in head.config.trained_on

    def test_json_is_one_object_on_standard_output(self, run: Run, lists: tuple[Path, Path], tmp_path: Path) -> None:
        argv = [*HOST, *WHOLE_IMAGE, "--data", lists[0], "--val", lists[1], "--out", tmp_path / "run"]
        code, out, err = run("train", *argv, "--epochs", 1, "--json")
        assert code == 0
        result = json.loads(out)
        assert result["host_unchanged"]
        assert result["validation"].keys() == METRICS
        assert "training" in err  # the progress bar

    def test_a_second_run_in_one_folder_is_refused(self, run: Run, lists: tuple[Path, Path], trained: Path) -> None:
        argv = [*HOST, *WHOLE_IMAGE, "--data", lists[0], "--val", lists[1], "--out", trained]
        code, out, err = run("train", *argv)
        assert (code, out) == (1, "")
        assert "already holds a run" in err


class TestEval:
    def test_every_metric(self, run: Run, lists: tuple[Path, Path], trained: Path) -> None:
        argv = [*HOST, "--head", trained / "head", "--data", lists[1], *WHOLE_IMAGE, "--json"]
        code, out, _ = run("eval", *argv)
        result = json.loads(out)
        assert code == 0
        assert result.keys() >= METRICS | {"images", "protocol", "flip"}
        assert (result["images"], result["protocol"], result["flip"]) == (4, "spaceclip-nyu", False)
        assert all(math.isfinite(result[name]) for name in METRICS)
        flipped = json.loads(run("eval", *argv, "--flip")[1])
        assert flipped["flip"]
        assert flipped["abs_rel"] != result["abs_rel"]

    def test_text_says_how_it_was_measured(self, run: Run, lists: tuple[Path, Path], trained: Path) -> None:
        _, out, _ = run("eval", *HOST, "--head", trained / "head", "--data", lists[1], *WHOLE_IMAGE)
        assert "4 images, protocol spaceclip-nyu, one forward, metric scale" in out

    def test_a_missing_file_names_its_line(
        self, run: Run, trained: Path, lists: tuple[Path, Path], caplog: pytest.LogCaptureFixture
    ) -> None:
        folder = lists[1].parent
        broken = folder / "broken.txt"
        broken.write_text(lists[1].read_text() + "absent.png absent_depth.png\n")
        argv = [*HOST, "--head", trained / "head", "--data", broken, *WHOLE_IMAGE]
        code, out, err = run("eval", *argv)
        assert (code, out) == (1, "")
        assert "broken.txt:5" in err
        assert "absent.png" in err
        code, out, err = run("eval", *argv, "--skip-bad", "--json")
        assert code == 0
        [skipped] = json.loads(out)["skipped"]
        assert (skipped["list"], skipped["line"]) == (str(broken), 5)
        assert any("broken.txt:5" in message and "absent.png" in message for message in caplog.messages)

    def test_depth_out_of_range_is_found_before_training(
        self, run: Run, lists: tuple[Path, Path], tmp_path: Path
    ) -> None:
        folder = lists[0].parent
        Image.fromarray(np.full((36, 48), 60_000, np.uint16)).save(folder / "far_depth.png")
        far = folder / "far.txt"
        lines = lists[0].read_text()
        far.write_text(f"{lines}0_0.png far_depth.png {lines.split()[2]}\n")
        argv = [*HOST, *WHOLE_IMAGE, "--data", far, "--val", lists[1], "--out", tmp_path / "run", "--epochs", 1]
        code, _, err = run("train", *argv)
        assert code == 1
        assert "far.txt:17" in err
        assert "no ground truth between" in err
        assert not (tmp_path / "run" / "head").exists()
        code, out, _ = run("train", *argv[:-3], tmp_path / "second", "--epochs", 1, "--skip-bad", "--json")
        assert code == 0
        assert [skipped["line"] for skipped in json.loads(out)["skipped"]] == [17]


class TestPredict:
    @pytest.fixture
    def photo(self, tmp_path: Path) -> Path:
        path = tmp_path / "kitchen.jpg"
        Image.fromarray(TabletopScenes(1, image_hw=(45, 61), seed=5)[0].image).save(path)
        return path

    def test_files(self, run: Run, trained: Path, photo: Path, tmp_path: Path) -> None:
        argv = [*HOST, "--head", trained / "head", photo, "--out", tmp_path / "out", "--intrinsics", "50,50,30.5,22.5"]
        code, out, _ = run("predict", *argv, "--json")
        assert code == 0
        [prediction] = json.loads(out)["predictions"]
        with Image.open(prediction["files"]["depth_mm"]) as png:
            assert png.mode in ("I;16", "I")  # 16 bits, by its newer and its older name
            depth = np.asarray(png)
        assert depth.shape == (45, 61)
        assert np.median(depth) / 1000 == pytest.approx(prediction["median_depth_m"], abs=2e-3)
        with Image.open(prediction["files"]["picture"]) as picture:
            assert picture.size > (122, 45)
        assert f"element vertex {(depth > 0).sum()}".encode() in Path(prediction["files"]["points"]).read_bytes()
        assert len(list((tmp_path / "out").iterdir())) == 3

    def test_a_matrix_file_gives_the_same_points(self, run: Run, trained: Path, photo: Path, tmp_path: Path) -> None:
        matrix = tmp_path / "K.txt"
        matrix.write_text("50 0 30.5\n0 50 22.5\n0 0 1\n")
        for name, intrinsics in (("a", "50,50,30.5,22.5"), ("b", matrix)):
            argv = [*HOST, "--head", trained / "head", photo, "--out", tmp_path / name, "--intrinsics", intrinsics]
            assert run("predict", *argv)[0] == 0
        assert (tmp_path / "a" / "kitchen.ply").read_bytes() == (tmp_path / "b" / "kitchen.ply").read_bytes()

    def test_without_intrinsics_no_points(self, run: Run, trained: Path, photo: Path, tmp_path: Path) -> None:
        code, out, _ = run("predict", *HOST, "--head", trained / "head", photo, "--out", tmp_path / "out", "--flip")
        assert code == 0
        assert "median depth" in out
        assert not list((tmp_path / "out").glob("*.ply"))

    @pytest.mark.parametrize("intrinsics", ["1,2,3", "a,b,c,d", "0,50,1,1", "nan,1,1,1", "1,2,3,4,5,6,7,8,9"])
    def test_intrinsics_that_are_none(
        self, run: Run, trained: Path, photo: Path, tmp_path: Path, intrinsics: str
    ) -> None:
        argv = [*HOST, "--head", trained / "head", photo, "--out", tmp_path / "out", "--intrinsics", intrinsics]
        code, out, err = run("predict", *argv)
        assert (code, out) == (1, "")
        assert "intrinsics" in err
        assert not (tmp_path / "out").exists()

    def test_two_photos_of_one_name(self, run: Run, trained: Path, photo: Path, tmp_path: Path) -> None:
        argv = [*HOST, "--head", trained / "head", photo, photo, "--out", tmp_path / "out"]
        assert "two photos are called 'kitchen'" in run("predict", *argv)[2]

    def test_a_photo_is_never_overwritten(self, run: Run, trained: Path, photo: Path) -> None:
        before = photo.with_name("kitchen_depth.png")
        Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(before)
        content = before.read_bytes()
        code, _, err = run("predict", *HOST, "--head", trained / "head", photo, before, "--out", photo.parent)
        assert code == 1
        assert "would be overwritten" in err
        assert before.read_bytes() == content

    def test_a_photo_that_is_none(self, run: Run, trained: Path, tmp_path: Path) -> None:
        (tmp_path / "text.jpg").write_text("not a photo")
        for path in (tmp_path / "text.jpg", tmp_path / "absent.jpg"):
            code, _, err = run("predict", *HOST, "--head", trained / "head", path, "--out", tmp_path / "out")
            assert code == 1
            assert path.name in err


class TestConvert:
    def test_a_checkpoint_that_is_none(self, run: Run, tmp_path: Path) -> None:
        torch.save([1, 2, 3], tmp_path / "list.pt")
        code, _, err = run("convert", tmp_path / "list.pt", "--out", tmp_path / "head")
        assert code == 1
        assert "list.pt" in err
        assert "not a SPACE-CLIP checkpoint" in err
        assert not (tmp_path / "head").exists()


class TestDemo:
    @pytest.mark.slow
    def test_the_rover(self, run: Run, tmp_path: Path) -> None:
        code, out, _ = run("demo", "--arenas", 1, "--out", tmp_path / "demo", "--json")
        assert code == 0
        result = json.loads(out)
        assert result["actions_identical"]
        assert result["outcomes"].keys() == {"goal", "collision", "timeout"}
        assert sum(result["outcomes"].values()) == 1
        assert result["outcomes"]["collision"] == 0
        assert result["frames"] > 20
        assert result["predicted"]["abs_rel"] < 0.5 * result["constant"]["abs_rel"]
        assert {Path(path).name for path in result["files"].values()} == {
            *("depth.png", "depth_mm.png", "points.ply", "metrics.json")
        }
        assert all(Path(path).stat().st_size > 100 for path in result["files"].values())
        code, out, _ = run("demo", "--arenas", 1, "--out", tmp_path / "demo")  # again in the same folder
        assert code == 0
        assert f"AbsRel {result['predicted']['abs_rel']:.3f}" in out
        assert "actions with and without taps: the same bits" in out

    @pytest.mark.slow
    def test_training(self, run: Run, tmp_path: Path) -> None:
        argv = ["--train", "--scenes", 16, "--unseen", 4, "--epochs", 1, "--out", tmp_path / "demo"]
        code, out, _ = run("demo", *argv, "--json")
        assert code == 0
        result = json.loads(out)
        for kind in ("predicted", "per_pixel_mean", "constant_median"):
            assert result[kind].keys() == METRICS
        for path in result["files"].values():
            assert Path(path).exists()
        assert DepthHead.from_pretrained(result["files"]["head"]).trained
        assert run("demo", *argv)[0] == 0  # again in the same folder

    def test_a_run_that_is_no_demo_is_left_alone(self, run: Run, tmp_path: Path) -> None:
        training = tmp_path / "demo" / "training"
        training.mkdir(parents=True)
        (training / "run.json").write_text('{"protocol": "nyu-eigen"}')
        code, _, err = run("demo", "--train", "--scenes", 16, "--unseen", 4, "--epochs", 1, "--out", tmp_path / "demo")
        assert code == 1
        assert "already holds a run" in err
        assert (training / "run.json").read_text() == '{"protocol": "nyu-eigen"}'

    @pytest.mark.parametrize("option", ["--host-weights", "--tower", "--adapter"])
    def test_options_of_a_host_without_one(self, run: Run, tmp_path: Path, option: str) -> None:
        assert "none is given" in run("demo", option, "x", "--out", tmp_path / "demo")[2]

    def test_too_small(self, run: Run, tmp_path: Path) -> None:
        assert "at least" in run("demo", "--train", "--scenes", 3, "--out", tmp_path)[2]
        assert "1 or more, got 0" in run("demo", "--arenas", 0, "--out", tmp_path)[2]

    @pytest.mark.parametrize("argv", [("--scenes", 16), ("--epochs", 1), ("--train", "--arenas", 2)])
    def test_options_of_the_other_demo(self, run: Run, tmp_path: Path, argv: tuple[object, ...]) -> None:
        assert "is for the demo with" in run("demo", *argv, "--out", tmp_path)[2]


class TestUsage:
    @pytest.mark.parametrize(
        ("host", "message"),
        [
            ("resnet50", "unknown host 'resnet50'; a host is one of hf:NAME"),
            ("resnet50", "python:MODULE:FUNCTION"),
            ("pyhton:a:b", "did you mean 'python'"),
            ("tim:deit", "did you mean 'timm'"),
            ("timm:", "unknown host"),
            ("timm:deit_tinny_patch16_224", "deit_tiny_patch16_224"),
            ("python:users_policy", "python:MODULE:FUNCTION"),
            ("python:users_policy:absent", "absent"),
            ("python:no_such_module:build", "no_such_module"),
            ("python:users_policy:not_a_module", "returned a str"),
        ],
    )
    def test_hosts_that_are_none(
        self, run: Run, lists: tuple[Path, Path], trained: Path, host: str, message: str
    ) -> None:
        code, out, err = run("eval", "--host", host, "--head", trained / "head", "--data", lists[1])
        assert (code, out) == (1, "")
        assert message in err

    def test_a_head_for_another_host(self, run: Run, lists: tuple[Path, Path], trained: Path) -> None:
        host = ["--host", "timm:vit_tiny_patch16_224", "--host-weights", "random"]
        code, _, err = run("eval", *host, "--head", trained / "head", "--data", lists[1], *WHOLE_IMAGE)
        assert code == 1
        assert "tokens of width 24, the tower's have 192" in err

    @pytest.mark.parametrize("device", ["cuda:99", "toaster", ""])
    def test_a_device_that_is_not_there(self, run: Run, lists: tuple[Path, Path], trained: Path, device: str) -> None:
        code, _, err = run("eval", *HOST, "--head", trained / "head", "--data", lists[1], "--device", device)
        assert code == 1
        assert "device" in err
        assert repr(device) in err

    @pytest.mark.parametrize("argv", [[], ["dance"], ["train"], ["eval", "--protocol", "nyu"]])
    def test_wrong_usage_exits_with_two(self, argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as exit_info:
            main(argv)
        assert exit_info.value.code == 2

    def test_help_loads_no_library(self) -> None:
        script = (
            "import sys\nfrom spaceclip_plugin.cli import main\n"
            "try:\n    main(['--help'])\nfinally:\n    print(*sys.modules)"
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        assert "usage: spaceclip" in done.stdout
        assert not {"torch", "numpy", "yaml"} & set(done.stdout.split())

    def test_version(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as exit_info:
            main(["--version"])
        assert exit_info.value.code == 0
        assert __version__ in capsys.readouterr().out
