"""The guide for people who have a host, run as its reader would."""

from __future__ import annotations

from pathlib import Path

import pytest
from clip_world import clip_host
from guide import run_guide
from trained_heads import trained_on

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_guide_to_hosts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clip_host().save_pretrained(tmp_path / "my-clip")
    trained_on(clip_host()).save_pretrained(tmp_path / "my-head")
    package = tmp_path / "site"
    installed = package / "lab_eye_adapter-0.1.0.dist-info"  # what pip would have left
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: lab-eye-adapter\nVersion: 0.1.0\n")
    (installed / "entry_points.txt").write_text(
        "[spaceclip_plugin.adapters]\nlab-eye = lab_eye_adapter.adapter:adapter\n"
    )
    monkeypatch.syspath_prepend(package)
    monkeypatch.syspath_prepend(ROOT / "examples" / "third_party_adapter")
    run_guide(ROOT / "adapters" / "README.md", tmp_path, monkeypatch)
    assert "(adapter 'clip', width 32, 3 blocks, patch 8, context 'cls')" in capsys.readouterr().out
