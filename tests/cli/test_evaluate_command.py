"""`spaceclip eval` as a user runs it: spread, files in a folder, and folders that are left alone."""

from __future__ import annotations

import csv
import json
import statistics
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import users_policy
from heads_that_tell import telling
from PIL import Image

from spaceclip_plugin import DepthHead
from spaceclip_plugin.cli import main
from spaceclip_worlds.render.tabletop import TabletopScenes

METRICS = ["abs_rel", "sq_rel", "rmse", "rmse_log", "log10", "silog", "delta1", "delta2", "delta3"]
IMAGES = 5
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parent)


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    """`eval` of a head that knows nothing, on five rendered scenes."""
    folder = tmp_path_factory.mktemp("data")
    scenes = TabletopScenes(IMAGES, image_hw=(36, 48))
    (folder / "rgb").mkdir()
    lines = []
    for i in range(IMAGES):
        Image.fromarray(scenes[i].image).save(folder / "rgb" / f"{i}.png")
        Image.fromarray((scenes[i].depth_m * 1000).astype(np.uint16)).save(folder / f"{i}_depth.png")
        lines.append(f"rgb/{i}.png {i}_depth.png\n")
    (folder / "list.txt").write_text("".join(lines))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        DepthHead.for_tower(users_policy.build()).save_pretrained(folder / "head")
    argv = ["eval", "--host", "python:users_policy:build", "--head", folder / "head", "--data", folder / "list.txt"]
    return [*argv, "--protocol", "whole-image"]


@pytest.fixture
def run(command: list[object], capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*argv: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([str(word) for word in (*command, *argv)])
        return code, *capsys.readouterr()

    return run


def test_json_says_how_the_images_spread(run: Run) -> None:
    code, out, _ = run("--json")
    result = json.loads(out)
    assert code == 0
    assert result["spread"].keys() == set(METRICS)
    assert result.keys() == {
        *METRICS, "spread", "images", "protocol", "flip", "coverage", "trained", "skipped", "lenses", "familiarity",
        "unfamiliar", "edges"
    }  # fmt: skip
    assert (result["images"], result["protocol"], result["trained"]) == (IMAGES, "whole-image", False)
    assert 0 < result["spread"]["abs_rel"] < result["abs_rel"]
    assert result["edges"] is None


def test_the_files_agree_with_each_other(run: Run, tmp_path: Path) -> None:
    code, out, _ = run("--out", tmp_path / "out", "--worst", 2, "--json")
    assert code == 0
    result = json.loads(out)
    with (tmp_path / "out" / "per_image.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == [f"list.txt:{i + 1} rgb/{i}.png" for i in range(IMAGES)]
    assert all(0 < int(row["valid_pixels"]) <= 36 * 48 for row in rows)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary["images"], summary["protocol"], summary["scale"]) == (IMAGES, "whole-image", "metric")
    assert (summary["trained"], Path(summary["data"]).name, Path(summary["head"]).name) == (False, "list.txt", "head")
    for name in METRICS:
        values = [float(row[name]) for row in rows]
        assert result[name] == summary["mean"][name] == pytest.approx(statistics.mean(values))
        assert result["spread"][name] == summary["standard_deviation"][name] == pytest.approx(statistics.stdev(values))
    by_error = sorted(rows, key=lambda row: -float(row["abs_rel"]))
    expected = [
        f"{rank:02d}_absrel_{float(row['abs_rel']):.3f}_{Path(row['name']).stem}.png"
        for rank, row in enumerate(by_error[:2], start=1)
    ]
    assert [Path(path).name for path in result["files"]["worst"]] == expected
    assert sorted(path.name for path in (tmp_path / "out" / "worst").iterdir()) == expected
    assert Path(result["files"]["summary"]) == tmp_path / "out" / "summary.json"
    assert Path(result["files"]["per_image"]).is_file()


def test_text_gives_the_spread_and_the_files(run: Run, tmp_path: Path) -> None:
    result = json.loads(run("--json")[1])
    code, out, _ = run("--out", tmp_path / "out")
    assert code == 0
    assert f"AbsRel {result['abs_rel']:.4f} ± {result['spread']['abs_rel']:.4f}  SqRel" in out
    assert f"delta3 {result['delta3']:.4f} ± {result['spread']['delta3']:.4f}  (mean ± sd over images)\n" in out
    assert "5 images, protocol whole-image, one forward, metric scale" in out
    files = [str(tmp_path / "out" / name) for name in ("per_image.csv", "summary.json", "worst")]
    assert "written: {}, {}, 5 pictures in {}\n".format(*files) in out
    assert len(list((tmp_path / "out" / "worst").iterdir())) == IMAGES  # eight by default, and there are no more


def test_it_says_whose_metres_were_scored_and_how_familiar_the_images_were(run: Run, tmp_path: Path) -> None:
    silent = run()[1]
    assert "camera" not in silent
    assert "familiarity" not in silent
    strange = telling(DepthHead.for_tower(users_policy.build()), familiar=False).save_pretrained(tmp_path / "head")
    text = run("--head", strange)[1]
    assert f"0 of {IMAGES} images in metres of their own camera, {IMAGES} of the one that the head assumes" in text
    assert f"familiarity 0.00, {IMAGES} of {IMAGES} images unlike those of the training" in text
    result = json.loads(run("--head", strange, "--json")[1])
    assert (result["lenses"], result["familiarity"], result["unfamiliar"]) == ({"assumed": IMAGES}, 0.0, 1.0)


def test_edges_are_looked_at_where_depth_is_exact_or_on_request(run: Run, tmp_path: Path) -> None:
    assert json.loads(run("--data", "scenes:3", "--no-edges", "--json")[1])["edges"] is None
    edges = json.loads(run("--edges", "--out", tmp_path / "out", "--json")[1])["edges"]
    assert edges.pop("images") == IMAGES
    assert edges == json.loads((tmp_path / "out" / "summary.json").read_text())["edges"]["mean"]
    scenes = json.loads(run("--data", "scenes:3", "--json")[1])["edges"]
    text = run("--data", "scenes:3")[1]
    assert f"3 of 3 images have edges: boundary F1 {scenes['boundary_f1']:.4f}, precision " in text
    assert f"; AbsRel {scenes['abs_rel_near']:.4f} at edges, {scenes['abs_rel_away']:.4f} away\n" in text


def test_data_without_edges_has_nothing_to_say_of_them(run: Run, command: list[object], tmp_path: Path) -> None:
    photo = Path(str(command[command.index("--data") + 1])).parent / "rgb" / "0.png"
    Image.fromarray(np.full((36, 48), 1500, np.uint16)).save(tmp_path / "wall.png")
    (tmp_path / "list.txt").write_text(f"{photo} {tmp_path}/wall.png\n")
    argv = ["--data", tmp_path / "list.txt", "--edges"]
    assert "0 of 1 images have edges: there is nothing to say of how sharp depth is\n" in run(*argv)[1]
    assert json.loads(run(*argv, "--json")[1])["edges"] == {"images": 0}


def test_data_of_any_kind_and_depth_of_any_range(run: Run) -> None:
    whole = json.loads(run("--data", "scenes:3", "--json")[1])
    near = json.loads(run("--data", "scenes:3", "--depth-range", "0.1,2", "--json")[1])
    assert (whole["images"], whole["protocol"]) == (3, "whole-image")
    assert (near["images"], near["protocol"]) == (3, "whole-image 0.1-2 m")
    assert near["rmse"] != whole["rmse"]
    code, out, err = run("--data", "scenes:3", "--depth-range", "2,1")
    assert (code, out) == (1, "")
    assert "depth_range_m" in err


def test_depth_in_another_unit_is_refused_before_the_host_is_loaded(
    run: Run, command: list[object], tmp_path: Path
) -> None:
    data = Path(str(command[command.index("--data") + 1])).parent
    lines = []
    for i in range(IMAGES):
        depth = np.asarray(Image.open(data / f"{i}_depth.png"))
        Image.fromarray((depth / 10_000 * 255).astype(np.uint16)).save(tmp_path / f"{i}_eight_bits.png")
        lines.append(f"{data}/rgb/{i}.png {tmp_path}/{i}_eight_bits.png\n")
    (tmp_path / "list.txt").write_text("".join(lines))
    argv = ["--data", tmp_path / "list.txt", "--protocol", "spaceclip-nyu", "--host", "python:users_policy:absent"]
    code, out, err = run(*argv, "--out", tmp_path / "out")
    assert (code, out) == (1, "")
    assert "the median depth of 5 samples from 'list.txt:1" in err
    assert "expected 0.5 to 8 m (protocol 'spaceclip-nyu')" in err
    assert not (tmp_path / "out").exists()


def test_a_bad_sample_is_told_with_the_flag_that_leaves_it_out(run: Run, command: list[object], tmp_path: Path) -> None:
    listed = Path(str(command[command.index("--data") + 1]))
    whole = listed.read_text().replace(" ", f" {listed.parent}/").replace("rgb/", f"{listed.parent}/rgb/")
    (tmp_path / "list.txt").write_text(f"{whole}absent.png absent_depth.png\n")
    code, _, err = run("--data", tmp_path / "list.txt")
    assert code == 1
    assert "1 of 6 lines cannot be used; repair them, or leave them out with --skip-bad" in err


def test_a_single_image_has_no_spread_to_speak_of(run: Run, command: list[object], tmp_path: Path) -> None:
    one = tmp_path / "one.txt"
    data = Path(str(command[command.index("--data") + 1])).parent
    one.write_text(f"{data}/rgb/0.png {data}/0_depth.png\n")
    code, out, _ = run("--data", one)
    assert code == 0
    assert "±" not in out
    assert "1 images" in out
    assert json.loads(run("--data", one, "--json")[1])["spread"] == dict.fromkeys(METRICS, 0.0)


def test_a_second_evaluation_replaces_the_first(run: Run, tmp_path: Path) -> None:
    assert run("--out", tmp_path / "out", "--worst", 3)[0] == 0
    assert run("--out", tmp_path / "out", "--worst", 0, "--flip")[0] == 0
    assert {path.name for path in (tmp_path / "out").rglob("*.*")} == {"per_image.csv", "summary.json"}
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["flip"]


def test_a_folder_of_something_else_is_refused_before_the_host_is_loaded(run: Run, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    code, out, err = run("--out", tmp_path, "--host", "python:users_policy:absent")
    assert (code, out) == (1, "")
    assert "holds 'thesis.tex', which is not from an earlier evaluation" in err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize(
    ("argv", "message"),
    [(["--worst", "3"], "needs --out DIR"), (["--worst", "-1", "--out", "OUT"], "0 or more, got -1")],
)
def test_pictures_that_cannot_be(run: Run, tmp_path: Path, argv: list[str], message: str) -> None:
    code, out, err = run(*[tmp_path / "out" if word == "OUT" else word for word in argv])
    assert (code, out) == (1, "")
    assert message in err
    assert not (tmp_path / "out").exists()


@pytest.fixture
def smaller(command: list[object], tmp_path: Path) -> Path:
    """The same photos with depth of half their size, in units of 1/5000 m."""
    folder = Path(str(command[6])).parent
    for kind in ("rgb", "depth"):
        (tmp_path / "half" / kind).mkdir(parents=True)
    for i in range(IMAGES):
        (tmp_path / "half" / "rgb" / f"{i}.png").write_bytes((folder / "rgb" / f"{i}.png").read_bytes())
        depth = np.asarray(Image.open(folder / f"{i}_depth.png")).astype(np.uint16)
        Image.fromarray(depth[::2, ::2] * np.uint16(5)).save(tmp_path / "half" / "depth" / f"{i}.png")
    return tmp_path / "half"


def test_a_unit_is_given_as_a_flag(
    run: Run, smaller: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:  # fmt: skip
    argv = ("--data", smaller, "--protocol", "nyu-eigen", "--depth-range", "0.1,3", "--json")
    code, _, error = run(*argv)
    assert code == 1
    assert "1000 units per metre" in error
    assert "with 5000 (TUM" in error
    assert "--units-per-metre" in error
    argv = ("--data", smaller, "--units-per-metre", 5000, "--out", tmp_path / "out", "--worst", 1, "--json")
    code, out, error = run(*argv)
    assert code == 0, error
    # Depth is scored at its own size, a quarter of the photo's pixels.
    with (tmp_path / "out" / "per_image.csv").open(newline="") as file:
        assert {int(row["valid_pixels"]) for row in csv.DictReader(file)} == {18 * 24}
    assert json.loads(out)["images"] == IMAGES
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["units_per_metre"] == 5000.0
    assert f"read as folder:{smaller}" in caplog.text
    assert "read with 5000 units per metre" in caplog.text
