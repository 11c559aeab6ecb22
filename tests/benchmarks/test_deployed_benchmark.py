"""The benchmark of deployed heads runs on small towers, and its tables say what was measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import deployed
import deployed_policy as world
import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from small_world import tiny_host
from wall_teacher import WallTeacher

from spaceclip_plugin.training import Recipe


def run(out: Path, *words: str) -> dict[str, Any]:
    deployed.main([*words, "--out", str(out)])
    found: dict[str, Any] = json.loads(out.read_text())
    return found


@pytest.fixture
def nyu(tmp_path: Path) -> Path:
    """A list of pairs in NYU's size for training, and one for validation."""
    for count, name in ((4, deployed.TRAIN), (2, deployed.VAL)):
        folder = name.partition("_")[0]
        world.lay_pairs(tmp_path / "nyu" / folder, count, seed=count)
        lines = [f"{folder}/rgb/{i:05d}.jpg {folder}/depth/{i:05d}.png 518.8579\n" for i in range(count)]
        (tmp_path / "nyu" / name).write_text("".join(lines))
    return tmp_path / "nyu"


@pytest.mark.slow
def test_accuracy(nyu: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deployed, "LIGHT", Recipe(epochs=1, views=1))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tower = timm.create_model("deit_tiny_patch16_224", pretrained=False)
    save_file(tower.state_dict(), tmp_path / "deit.safetensors")
    words = ("--nyu", str(nyu), "--weights", str(tmp_path / "deit.safetensors"), "--frames", "3")
    found = run(tmp_path / "record.json", "--part", "accuracy", *words)["accuracy"]
    assert (found["train_images"], [row["images"] for row in found["rows"]]) == (3, [2, 2])
    squashed, own = found["rows"]
    assert own["deployed"]["abs_rel"] == pytest.approx(own["reported"]["abs_rel"], rel=0.02)
    # A tower of random weights hardly tells images apart: by how much they differ means nothing, that they do does.
    assert squashed["deployed"]["abs_rel"] != pytest.approx(squashed["reported"]["abs_rel"], rel=1e-5)


@pytest.mark.slow
def test_first_head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world, "smolvla_sized", tiny_host)
    monkeypatch.setattr(world, "saved_teacher", lambda folder: folder)
    monkeypatch.setattr(deployed, "load_teacher", lambda name, *, device: WallTeacher())
    monkeypatch.setattr(world, "PHOTO_HW", (32, 32))
    for words in (
        ("--views", "1", "--epochs", "1"),
        ("--views", "2", "--epochs", "1"),
        ("--views", "1", "--epochs", "1"),
    ):
        record = run(tmp_path / "record.json", "--part", "first-head", "--frames", "4", *words)
    assert [each["recipe"]["views"] for each in record["first-head"]["runs"]] == [2, 1]
    assert all(set(each["seconds"]) == {"teaching", "caching", "training"} for each in record["first-head"]["runs"])


def test_what_was_extrapolated_stands_by_itself() -> None:
    seconds = {"teaching": 60.0, "caching": 120.0, "training": 30.0}
    recipe = {"views": 8, "epochs": 20}
    runs = [{"frames": frames, "seconds": seconds, "recipe": recipe} for frames in (50, 500)]
    *_, few, whole = deployed.first_head_table({"first-head": {"runs": runs}}).splitlines()
    assert few == "| 8, 20 | 50 | 1.0 min | 2.0 min | 0.5 min | 3.5 min | 35 min |"
    assert whole.endswith("| 3.5 min | – |")


def test_the_policy_pads_as_it_says() -> None:
    policy: Any = world.SmolVLAPolicy.__new__(world.SmolVLAPolicy)
    torch.nn.Module.__init__(policy)
    policy.eye = type("Eye", (), {"pretrained_cfg": {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}})()
    [image], _ = policy.prepare_images({world.KEY: torch.ones(1, 3, 480, 640)})
    assert image.shape == (1, 3, 224, 224)
    assert not image[..., :56, :].any()
    torch.testing.assert_close(image[..., 56:, :], torch.ones(1, 3, 168, 224))


def test_photos_are_as_a_folder_has_them(tmp_path: Path) -> None:
    world.lay_pairs(tmp_path, 1)
    with Image.open(tmp_path / "rgb" / "00000.jpg") as photo, Image.open(tmp_path / "depth" / "00000.png") as depth:
        assert photo.size == depth.size == (640, 480)
        depth_mm = np.asarray(depth)
    assert depth_mm.dtype.kind in "iu"
    assert depth_mm.min() >= 500
