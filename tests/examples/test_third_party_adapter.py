"""The example package of a third-party adapter, installed as a user would, is found by its entry point and right."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "examples" / "third_party_adapter"

CHECK = """
import torch
from lab_eye_adapter.model import build
from spaceclip_plugin import DepthHead, attach_depth_head
from spaceclip_plugin.towers import find_towers

torch.manual_seed(0)
host, pixels = build(), torch.randn(2, 3, 64, 64)
taps = {"channels": (8, 6), "semantic_taps": (4, 2), "structural_taps": (0,)}
head = DepthHead.for_tower(host, architecture="space-clip", options=taps)
with torch.no_grad(), attach_depth_head(host, head) as depth:
    plain = host(pixels)
    [features] = depth.features()
    assert depth.tower.adapter == "lab-eye", depth.tower
patches = host.cut(pixels) + host.positions[:, :16].transpose(1, 2).unflatten(2, (4, 4))
assert torch.allclose(features.hidden[0], patches, atol=1e-6), "patches out of place"
tokens = torch.cat([patches.flatten(2).transpose(1, 2), host.task_tokens.expand(2, -1, -1) + host.positions[:, 16:]], 1)
for layer in host.layers:
    tokens = layer(tokens)
assert torch.allclose(features.context, tokens[:, :16].mean(dim=1), atol=1e-5)
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Where the package is importable: installed offline, without its dependencies, into a folder of its own."""
    site = tmp_path_factory.mktemp("site")
    build = tmp_path_factory.mktemp("build") / "package"
    build.mkdir()
    for path in (*PACKAGE.glob("*.toml"), *PACKAGE.glob("lab_eye_adapter/*.py")):  # building must not touch the sources
        target = build / path.relative_to(PACKAGE)
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(path.read_bytes())
    offline = ["--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check", "--quiet"]
    install = [sys.executable, "-m", "pip", "install", *offline, "--target", str(site), str(build)]
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    paths = [str(site), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1"}


def run(environment: dict[str, str], *argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *argv], env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_it_is_found_by_its_entry_point(environment: dict[str, str]) -> None:
    done = run(environment, "-m", "spaceclip_plugin.cli", "inspect", "python:lab_eye_adapter.model:build", "--json")
    assert done.returncode == 0, done.stderr
    (tower,) = json.loads(done.stdout)["towers"]
    assert (tower["adapter"], tower["blocks"], tower["grid_hw"]) == ("lab-eye", 4, [4, 4])


@pytest.mark.slow
def test_it_reads_what_structure_alone_would_not(environment: dict[str, str]) -> None:
    done = run(environment, "-c", CHECK)
    assert done.returncode == 0, done.stderr
    by_structure = CHECK.replace("(host, head)", "(host, head, tower=find_towers(host, adapter='structural')[0])")
    done = run(environment, "-c", by_structure.replace('"lab-eye"', '"structural"'))
    assert done.returncode == 1
    assert "patches out of place" in done.stderr
