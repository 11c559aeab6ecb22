"""The worlds' guide, run as its reader would from a checkout; and that it names every example."""

from __future__ import annotations

from pathlib import Path

import pytest
from guide import run_guide

ROOT = Path(__file__).resolve().parents[2]
GUIDE = ROOT / "examples" / "README.md"


@pytest.mark.slow
def test_every_block_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    run_guide(GUIDE, tmp_path, monkeypatch)
    assert "- goal" in capsys.readouterr().out
    assert (tmp_path / "spaceclip-demo" / "depth.png").is_file()


def test_every_example_has_its_line() -> None:
    text = GUIDE.read_text()
    examples = [path for path in GUIDE.parent.iterdir() if path.suffix in ("", ".py") and path.name[0] not in "._"]
    assert len(examples) > 10
    for path in examples:
        assert f"]({path.name})" in text
