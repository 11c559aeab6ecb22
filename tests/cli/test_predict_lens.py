"""`spaceclip predict` says whose metres its depth is in, and how familiar a photo is to the head."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import users_policy
from heads_that_tell import telling
from photo_world import Run, head, photo, predict, predicted
from PIL import Image

from spaceclip_plugin import DepthHead

__all__ = ["head", "predict"]

HW = (48, 64)
LONG = ["--intrinsics", "128,96,32,24"]  # twice as long as the head assumes


def head_in(folder: Path, **told: object) -> list[str]:
    saved = telling(DepthHead.for_tower(users_policy.build()), **told).save_pretrained(folder)  # type: ignore[arg-type]
    return ["--head", str(saved)]


def depth_mm(entry: dict[str, object]) -> np.ndarray:
    return np.asarray(Image.open(entry["files"]["depth_mm"])).astype(float)  # type: ignore[index]


def test_depth_and_points_are_in_metres_of_the_photos_camera(predict: Run, tmp_path: Path) -> None:
    shot, telling_head = photo(tmp_path / "a.png", HW), head_in(tmp_path / "head")
    found = {}
    for name, camera in {"assumed": [], "known": LONG, "alike": ["--intrinsics", "64,48,32,24"]}.items():
        code, out, _ = predict(shot, *telling_head, *camera, "--out", tmp_path / name, "--json")
        assert code == 0
        found[name] = predicted(out)["a.png"]
    assert [found[name]["lens"] for name in found] == ["assumed", "known", "known"]
    np.testing.assert_allclose(depth_mm(found["known"]), 2 * depth_mm(found["assumed"]), atol=1.01)
    assert (depth_mm(found["alike"]) == depth_mm(found["assumed"])).all()
    body = Path(found["known"]["files"]["points"]).read_bytes().split(b"end_header\n", 1)[1]  # type: ignore[index]
    kinds = [(axis, "<f4") for axis in "xyz"] + [(name, "u1") for name in ("red", "green", "blue")]
    z_m = np.frombuffer(body, dtype=kinds)["z"]
    np.testing.assert_allclose(1000 * z_m, depth_mm(found["known"]).ravel(), atol=0.51)


@pytest.mark.parametrize(("familiar", "share"), [(True, 1.0), (False, 0.0), (None, None)])
def test_familiarity(predict: Run, tmp_path: Path, familiar: bool | None, share: float | None) -> None:
    shot, telling_head = photo(tmp_path / "a.png", HW), head_in(tmp_path / "head", familiar=familiar)
    _, out, _ = predict(shot, *telling_head, "--out", tmp_path / "one", "--json")
    assert predicted(out)["a.png"]["familiarity"] == share
    _, text, _ = predict(shot, *telling_head, "--out", tmp_path / "two")
    [line] = [line for line in text.splitlines() if "median depth" in line]
    assert (", familiarity " in line) == (familiar is not None)
    assert ("unlike the training images" in line) == (familiar is False)


def test_the_text_asks_for_intrinsics_where_they_would_matter(predict: Run, tmp_path: Path) -> None:
    shot, telling_head = photo(tmp_path / "a.png", HW), head_in(tmp_path / "head")
    assert "camera assumed: give --intrinsics" in predict(shot, *telling_head, "--out", tmp_path / "one")[1]
    assert "assumed" not in predict(shot, *telling_head, *LONG, "--out", tmp_path / "two")[1]
    for number, camera in enumerate(([], LONG)):  # a head that tells nothing
        code, out, _ = predict(shot, *camera, "--out", tmp_path / f"silent{number}")
        assert code == 0
        assert ("does not tell which camera" in out) == bool(camera)
        assert ", familiarity " not in out


def test_an_older_head_gives_the_same_depth_with_and_without_intrinsics(predict: Run, tmp_path: Path) -> None:
    shot = photo(tmp_path / "a.png", HW)
    entries = [
        predicted(predict(shot, *camera, "--out", tmp_path / str(number), "--json")[1])["a.png"]
        for number, camera in enumerate(([], LONG))
    ]
    assert [(entry["lens"], entry["familiarity"]) for entry in entries] == [("unknown", None)] * 2
    assert (depth_mm(entries[0]) == depth_mm(entries[1])).all()
