"""What an evaluation leaves in a folder, and what it never touches there."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spaceclip_plugin.depth import pictures
from spaceclip_plugin.errors import ConfigError
from spaceclip_plugin.evaluation import report
from spaceclip_plugin.evaluation.edges import EdgeMetrics
from spaceclip_plugin.evaluation.evaluate import Evaluation, ImageScore, WorstImage
from spaceclip_plugin.evaluation.metrics import DepthMetrics, mean_metrics, metrics_deviation
from spaceclip_plugin.evaluation.report import ReportFolder

NAMES = ["abs_rel", "sq_rel", "rmse", "rmse_log", "log10", "silog", "delta1", "delta2", "delta3"]
INVALID = (48, 48, 48)


def metrics_of(abs_rel: float) -> DepthMetrics:
    return DepthMetrics(*(abs_rel * k for k in range(1, 10)))


def worst_of(name: str, abs_rel: float) -> WorstImage:
    maps = np.full((40, 40), 2.0, np.float32), np.full((40, 40), 1.5, np.float32)
    photo = np.full((40, 40, 3), 200, np.uint8)
    return WorstImage(name, metrics_of(abs_rel), photo, *maps, np.ones((40, 40), bool))


def evaluation_of(scores: dict[str, float], worst: Sequence[WorstImage] = ()) -> Evaluation:
    metrics = [metrics_of(abs_rel) for abs_rel in scores.values()]
    return Evaluation(
        mean=mean_metrics(metrics),
        standard_deviation=metrics_deviation(metrics),
        per_image=tuple(ImageScore(*one, 100 + i) for i, one in enumerate(zip(scores, metrics, strict=True))),
        protocol="nyu-eigen",
        flip=True,
        coverage={0.5: 0.48, 0.9: 0.91},
        worst=tuple(worst),
    )


def names_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_the_table_reads_back(tmp_path: Path) -> None:
    scores = {"list.txt:1 a.png": 0.1, 'with, comma and "quotes"': 1 / 3, "two\nlines": 0.2, "Küche 厨": 0.3}
    written = ReportFolder(tmp_path / "out").write(evaluation_of(scores))
    assert written.per_image == tmp_path / "out" / "per_image.csv"
    content = written.per_image.read_bytes()
    assert content.startswith(b"name,valid_pixels,abs_rel,sq_rel,rmse,rmse_log,log10,silog,delta1,delta2,delta3,")
    assert b'"with, comma and ""quotes""",101,' in content
    with written.per_image.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == list(scores)
    assert [int(row["valid_pixels"]) for row in rows] == [100, 101, 102, 103]
    for row, abs_rel in zip(rows, scores.values(), strict=True):
        assert [float(row[name]) for name in NAMES] == [abs_rel * k for k in range(1, 10)]  # every digit


def test_the_summary(tmp_path: Path) -> None:
    evaluation = evaluation_of({"a": 1.0, "b": 2.0, "c": 6.0, "d": 4.0})
    written = ReportFolder(tmp_path).write(evaluation, details={"head": "runs/head", "trained": True})
    summary = json.loads(written.summary.read_text())
    statistics = {
        "mean": 3.25,
        "standard_deviation": np.std([1, 2, 6, 4], ddof=1),
        "median": 3.0,
        "lowest": 1.0,
        "highest": 6.0,
    }
    for statistic, abs_rel in statistics.items():
        assert list(summary[statistic]) == NAMES
        assert list(summary[statistic].values()) == pytest.approx([abs_rel * k for k in range(1, 10)]), statistic
    rest = {key: value for key, value in summary.items() if key not in statistics}
    assert rest == {
        "head": "runs/head",
        "trained": True,
        "protocol": "nyu-eigen",
        "flip": True,
        "scale": "metric",
        "images": 4,
        "lenses": {"unknown": 4},
        "familiarity": None,
        "unfamiliar": None,
        "coverage": {"0.5": 0.48, "0.9": 0.91},
        "edges": None,
    }
    without = ReportFolder(tmp_path).write(dataclasses.replace(evaluation, coverage=None))
    assert json.loads(without.summary.read_text())["coverage"] is None
    with pytest.raises(ConfigError, match="'scale' is an entry of every summary"):
        ReportFolder(tmp_path).write(evaluation, details={"scale": "aligned"})


def test_lens_and_familiarity_of_each_image(tmp_path: Path) -> None:
    evaluation = evaluation_of({"a": 1.0, "b": 2.0, "c": 3.0})
    told = zip(evaluation.per_image, ("known", "assumed", "known"), (0.04, 0.05, 0.9), strict=True)
    told_by = tuple(dataclasses.replace(score, lens=lens, familiarity=share) for score, lens, share in told)
    written = ReportFolder(tmp_path).write(dataclasses.replace(evaluation, per_image=told_by))
    with written.per_image.open(newline="", encoding="utf-8") as file:
        rows = [(row["lens"], float(row["familiarity"])) for row in csv.DictReader(file)]
    assert rows == [("known", 0.04), ("assumed", 0.05), ("known", 0.9)]
    summary = json.loads(written.summary.read_text())
    assert summary["lenses"] == {"known": 2, "assumed": 1}
    assert (summary["familiarity"], summary["unfamiliar"]) == pytest.approx((0.33, 1 / 3))


def test_edges_of_each_image_and_their_statistics(tmp_path: Path) -> None:
    evaluation = evaluation_of({"a": 1.0, "b": 2.0, "c": 3.0})
    edges = [EdgeMetrics(*(k * factor for k in range(1, 8))) for factor in (0.1, 0.3)]
    scores = zip(evaluation.per_image, (edges[0], None, edges[1]), strict=True)
    per_image = tuple(dataclasses.replace(score, edges=one) for score, one in scores)
    evaluation = dataclasses.replace(evaluation, per_image=per_image, images_with_edges=2)
    written = ReportFolder(tmp_path).write(evaluation)
    names = [field.name for field in dataclasses.fields(EdgeMetrics)]
    with written.per_image.open(newline="", encoding="utf-8") as file:
        rows = [[row[name] for name in names] for row in csv.DictReader(file)]
    assert rows[1] == [""] * 7
    assert [[float(value) for value in rows[row]] for row in (0, 2)] == [[*dataclasses.astuple(one)] for one in edges]
    told = json.loads(written.summary.read_text())["edges"]
    assert told.keys() == {"images", "mean", "standard_deviation", "median", "lowest", "highest"}
    assert told["images"] == 2
    assert list(told["mean"]) == names
    assert list(told["mean"].values()) == pytest.approx([0.2 * k for k in range(1, 8)])
    assert told["highest"]["abs_rel_away"] == pytest.approx(2.1)
    none = tuple(dataclasses.replace(score, edges=None) for score in per_image)
    written = ReportFolder(tmp_path).write(dataclasses.replace(evaluation, per_image=none, images_with_edges=0))
    assert json.loads(written.summary.read_text())["edges"] == {"images": 0}


@pytest.mark.parametrize("told", [0, 2])
def test_an_evaluation_of_before_all_was_told_is_replaced(tmp_path: Path, told: int) -> None:
    written = ReportFolder(tmp_path).write(evaluation_of({"a": 0.1, "b": 0.2}))
    with written.per_image.open(newline="", encoding="utf-8") as file:
        rows = [row[: 11 + told] for row in csv.reader(file)]
    with written.per_image.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    ReportFolder(tmp_path).write(evaluation_of({"c": 0.3}))
    assert written.per_image.read_text().splitlines()[1].startswith("c,100,")


def test_pictures_by_rank(tmp_path: Path) -> None:
    worst = [
        worst_of("val.txt:12 rgb/00012.jpg", 0.6126),
        worst_of("lerobot/kitchen: episode 3, frame 5", 0.5),
        worst_of("厨房/照片.png", 0.4),
        worst_of("", 0.3),
        worst_of("x" * 400, 0.2),
    ]
    written = ReportFolder(tmp_path).write(evaluation_of({"a": 1.0}, worst))
    assert [path.name for path in written.worst] == [
        "01_absrel_0.613_00012.png",
        "02_absrel_0.500_kitchen_episode_3_frame_5.png",
        "03_absrel_0.400__.png",
        "04_absrel_0.300_image.png",
        f"05_absrel_0.200_{'x' * 80}.png",
    ]
    assert {path.parent for path in written.worst} == {tmp_path / "worst"}
    for path in written.worst:
        with Image.open(path) as picture:
            assert picture.width > 3 * 480
    ReportFolder(tmp_path)  # all of these names are known as those of an earlier evaluation


def test_what_does_not_count_is_grey(tmp_path: Path) -> None:
    worst = worst_of("a", 0.3)
    valid, prediction_m = worst.valid.copy(), worst.prediction_m.copy()
    valid[:, :10] = False  # a mask, or no truth
    prediction_m[:4] = 0  # not seen by the host
    valid[:4] = False
    marked = dataclasses.replace(worst, valid=valid, prediction_m=prediction_m)
    tile = 480 * 480
    uncounted = tile - 36 * 12 * 30 * 12
    unseen = 4 * 12 * 480
    for image, expected in ((worst, 0), (marked, 2 * uncounted + unseen)):
        [path] = ReportFolder(tmp_path).write(evaluation_of({"a": 1.0}, [image])).worst
        with Image.open(path) as picture:
            grey = (np.asarray(picture) == INVALID).all(axis=-1).sum()
        caption = 480 * 40 if expected else 0  # the figure stands on a part of the error
        assert expected - caption <= grey <= expected * 1.01


@pytest.mark.parametrize(("abs_rel", "scale"), [(0.0, 0.1), (0.1, 0.2), (0.19, 0.3), (0.34, 1.0), (99.0, 10.0)])
def test_the_error_scale_fits_the_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, abs_rel: float, scale: float
) -> None:
    seen = []
    draw = pictures.depth_panel

    def spy(rows: Sequence[pictures.PanelRow], **settings: object) -> pictures.Colours:
        seen.append((rows[0], settings["max_error"]))
        return draw(rows, **settings)

    monkeypatch.setattr("spaceclip_plugin.depth.depth_panel", spy)
    image = worst_of("a", abs_rel)
    image.valid[0] = False
    ReportFolder(tmp_path).write(evaluation_of({"a": 1.0}, [image]))
    [(row, max_error)] = seen
    assert max_error == scale
    assert row.truth_m is not None
    assert (row.truth_m[0] == 0).all()
    np.testing.assert_array_equal(row.truth_m[1:], image.target_m[1:])
    np.testing.assert_array_equal(row.prediction_m, image.prediction_m)


def test_an_earlier_evaluation_is_replaced(tmp_path: Path) -> None:
    first = [worst_of(name, 0.5) for name in "abc"]
    ReportFolder(tmp_path).write(evaluation_of({"a": 1.0, "b": 2.0}, first))
    second = ReportFolder(tmp_path).write(evaluation_of({"c": 3.0}, [worst_of("d", 0.25)]))
    assert names_in(tmp_path) == {"per_image.csv", "summary.json", "worst/01_absrel_0.250_d.png"}
    assert json.loads(second.summary.read_text())["images"] == 1
    assert len(second.per_image.read_text().splitlines()) == 2
    ReportFolder(tmp_path).write(evaluation_of({"c": 3.0}))
    assert names_in(tmp_path) == {"per_image.csv", "summary.json"}


def test_claiming_a_folder_deletes_nothing(tmp_path: Path) -> None:
    ReportFolder(tmp_path).write(evaluation_of({"a": 1.0}, [worst_of("a", 0.5)]))
    before = names_in(tmp_path)
    ReportFolder(tmp_path)
    assert names_in(tmp_path) == before
    assert len(before) == 3


FOREIGN = {
    "notes.txt": "mine",
    ".hidden": "",
    "per_image.csv": "name,age\nMax,3\n",
    "summary.json": '{"images": 3}',
    "worst/holiday.png": "",
    "worst/x01_absrel_0.512_a.png": "",
    "worst/01_absrel_0.512_a.png.txt": "",
    "worst/01_absrel_0.5_a.png": "",
    "worst/deep/01_absrel_0.512_a.png": "",
    "head/config.json": "{}",
}


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("among", [False, True], ids=["alone", "beside an evaluation"])
def test_anything_else_is_refused_and_untouched(tmp_path: Path, name: str, among: bool) -> None:
    if among:
        ReportFolder(tmp_path).write(evaluation_of({"a": 1.0}, [worst_of("a", 0.5)]))
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(FOREIGN[name])
    before = names_in(tmp_path)
    with pytest.raises(ConfigError, match=f"holds '{Path(name).parts[0]}', which is not from an earlier evaluation"):
        ReportFolder(tmp_path)
    assert names_in(tmp_path) == before
    assert path.read_text() == FOREIGN[name]


@pytest.mark.parametrize("without", [["summary.json"], ["summary.json", "worst"], ["summary.json", "per_image.csv"]])
def test_a_table_or_pictures_that_somebody_keeps_are_refused(tmp_path: Path, without: list[str]) -> None:
    ReportFolder(tmp_path).write(evaluation_of({"a": 1.0}, [worst_of("a", 0.5)]))
    for name in without:
        shutil.rmtree(tmp_path / name) if name == "worst" else (tmp_path / name).unlink()
    before = names_in(tmp_path)
    with pytest.raises(ConfigError, match="not from an earlier evaluation"):
        ReportFolder(tmp_path)
    assert names_in(tmp_path) == before


@pytest.mark.parametrize("change", ["a row less", "a value", "a column", "no table"])
def test_a_table_that_was_edited_is_refused(tmp_path: Path, change: str) -> None:
    table = ReportFolder(tmp_path).write(evaluation_of({"a": 1.0, "b": 2.0})).per_image
    lines = table.read_text(encoding="utf-8").splitlines()
    changed = {
        "a row less": lines[:-1],
        "a value": [lines[0], lines[1].replace("1.0", "1.5", 1), lines[2]],
        "a column": [f"{line},mine" for line in lines],
        "no table": [lines[0], "notes to myself"],
    }[change]
    table.write_text("\n".join(changed), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"holds 'per_image\.csv'"):
        ReportFolder(tmp_path)
    assert table.read_text(encoding="utf-8") == "\n".join(changed)


def test_what_a_killed_replacement_left_is_replaced(tmp_path: Path) -> None:
    """The old summary goes first, and the new files lie beside until they have their names."""
    ReportFolder(tmp_path).write(evaluation_of({"a": 1.0}, [worst_of("a", 0.5)]))
    (tmp_path / "summary.json").unlink()
    (tmp_path / ".evaluation.0123456789ab.tmp").mkdir()
    ReportFolder(tmp_path).write(evaluation_of({"b": 2.0}))
    assert names_in(tmp_path) == {"per_image.csv", "summary.json"}


def test_a_summary_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text("scale mean protocol")
    with pytest.raises(ConfigError, match="holds 'summary"):
        ReportFolder(tmp_path)


@pytest.mark.parametrize("name", ["per_image.csv", "summary.json", "worst"])
def test_entries_of_the_wrong_kind_are_refused(tmp_path: Path, name: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    ReportFolder(elsewhere).write(evaluation_of({"a": 1.0}, [worst_of("a", 0.5)]))
    linked, other = tmp_path / "linked", tmp_path / "other"
    linked.mkdir()
    (linked / name).symlink_to(elsewhere / name)
    if name == "worst":
        other.mkdir()
        (other / name).write_text("a file")
    else:
        (other / name).mkdir(parents=True)
    for folder in (linked, other):
        with pytest.raises(ConfigError, match=f"holds '{name}'"):
            ReportFolder(folder)


def test_what_joined_after_the_claim_stays(tmp_path: Path) -> None:
    ReportFolder(tmp_path).write(evaluation_of({"a": 1.0}, [worst_of("a", 0.5)]))
    folder = ReportFolder(tmp_path)
    (tmp_path / "worst" / "mine.png").write_text("mine")
    folder.write(evaluation_of({"a": 1.0}))
    assert names_in(tmp_path) == {"per_image.csv", "summary.json", "worst/mine.png"}


def test_a_folder_that_cannot_be_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ConfigError, match="for an evaluation"):
            ReportFolder(path)
    assert (tmp_path / "file").read_text() == "text"


@pytest.mark.parametrize("name", ["_write_table", "_write_picture", "write_json"])
def test_a_full_disk_leaves_an_earlier_evaluation_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    ReportFolder(tmp_path).write(evaluation_of({"a": 1.0}, [worst_of("a", 0.5)]))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert len(before) == 3

    def full(path: Path, content: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(report, name, full)
        with pytest.raises(ConfigError, match=r"cannot write the evaluation to .*No space left.* Free disk space"):
            ReportFolder(tmp_path).write(evaluation_of({"b": 2.0}, [worst_of("b", 0.5)]))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert not list(tmp_path.glob(".*"))
    again = ReportFolder(tmp_path).write(evaluation_of({"b": 2.0}))
    assert again.summary.exists()


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    left = tmp_path / ".evaluation.0123456789ab.tmp" / "worst"
    left.mkdir(parents=True)
    (left / "half.png").write_text("half")
    folder = ReportFolder(tmp_path)
    assert (left / "half.png").exists()
    folder.write(evaluation_of({"a": 1.0}))
    assert names_in(tmp_path) == {"per_image.csv", "summary.json"}
    assert not left.parent.exists()
