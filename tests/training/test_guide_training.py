"""The guide to training runs as its reader would run it, on a few rendered photos."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from guide import run_guide
from PIL import Image

import spaceclip_plugin.training
from spaceclip_plugin.data import DepthSample
from spaceclip_worlds.render.tabletop import TabletopScenes

GUIDE = Path(spaceclip_plugin.training.__file__).parent / "README.md"


def written(folder: Path, samples: list[DepthSample]) -> list[str]:
    """Photos and depth in millimetres as `rgb/N.png` and `depth/N.png`; the lines of a list of them."""
    for name in ("rgb", "depth"):
        (folder / name).mkdir(parents=True)
    for number, sample in enumerate(samples):
        Image.fromarray(sample.image).save(folder / "rgb" / f"{number}.png")
        Image.fromarray((sample.depth_m * 1000).astype(np.uint16)).save(folder / "depth" / f"{number}.png")
    return [f"{folder.name}/rgb/{number}.png {folder.name}/depth/{number}.png\n" for number in range(len(samples))]


@pytest.mark.slow
def test_the_guide_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, count, seed in (("kitchen", 6, 3), ("val", 2, 4), ("test", 2, 5)):
        scenes = TabletopScenes(count, image_hw=(64, 64), seed=seed)
        lines = written(tmp_path / name, [scenes[i] for i in range(count)])
        (tmp_path / f"{name}.txt").write_text("".join(lines))
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    run_guide(GUIDE, tmp_path, monkeypatch)
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {
        "kitchen", "from-python", "mixed", "mixed-again", "kept", "reused", "two", "stopped",
    }  # fmt: skip
