"""A tiny host, a head, and photos of random pixels: what the tests of `spaceclip predict` run on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import users_policy
from PIL import Image

from spaceclip_plugin import DepthHead, attach_depth_head
from spaceclip_plugin.cli import main

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained head of the tiny host."""
    with attach_depth_head(users_policy.build()) as depth:
        return DepthHead.for_tower(depth.tower).save_pretrained(tmp_path_factory.mktemp("head"))


@pytest.fixture
def predict(head: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """`spaceclip predict` with further arguments: exit code, standard output and error."""
    monkeypatch.chdir(Path(__file__).parent)

    def run(*argv: object) -> tuple[int, str, str]:
        capsys.readouterr()
        command = ["predict", "--host", "python:users_policy:build", "--head", str(head)]
        code = main([*command, *(str(word) for word in argv)])
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def no_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails a test that gets as far as loading the host."""
    monkeypatch.setattr(users_policy, "build", lambda: pytest.fail("the host was loaded"))


def photo(path: Path, hw: tuple[int, int], *, orientation: int | None = None) -> Path:
    """Write a photo of random pixels, stored as (H, W)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (*hw, 3), dtype=np.uint8)).save(path, exif=exif)
    return path


def predicted(output: str) -> dict[str, dict[str, object]]:
    """What `--json` says of each photo, by the photo's name."""
    return {Path(entry["image"]).name: entry for entry in json.loads(output)["predictions"]}


def rays(ply: Path, hw: tuple[int, int]) -> np.ndarray:
    """(H, W, 2) x/z and y/z of a point cloud that has a point for every pixel."""
    header, body = ply.read_bytes().split(b"end_header\n", 1)
    assert f"element vertex {hw[0] * hw[1]}\n".encode() in header
    kinds = [(name, "<f4") for name in "xyz"] + [(name, "u1") for name in ("red", "green", "blue")]
    points = np.frombuffer(body, dtype=kinds)
    return np.stack([points["x"] / points["z"], points["y"] / points["z"]], -1).reshape(*hw, 2)
