"""The README's figures are those of the recorded run, and its links lead somewhere."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
ROWS = {
    "DeiT-Tiny, frozen": ("pretrained", "one_forward"),
    "DeiT-Tiny, frozen, with flip": ("pretrained", "two_forwards"),
    "the same tower with random weights": ("random", "one_forward"),
    "per-pixel mean of the training depth": ("per_pixel_mean",),
    "constant median of the training depth": ("constant_median",),
}


@pytest.mark.parametrize("row", ROWS)
def test_the_table_is_the_recorded_run(row: str) -> None:
    scores = json.loads((ROOT / "benchmarks" / "results" / "nyu_space_clip.json").read_text())
    for key in ROWS[row]:
        scores = scores[key]
    [line] = [line for line in README.splitlines() if line.startswith(f"| {row} |")]
    figures = [cell.strip() for cell in line.strip("|").split("|")[1:4]]
    assert figures == [f"{scores['abs_rel']:.4f}", f"{scores['rmse']:.3f}", f"{scores['delta1']:.3f}"]


def test_what_taps_cost_is_the_recorded_run() -> None:
    record = json.loads((ROOT / "benchmarks" / "results" / "host_overhead.json").read_text())
    for run in record["step_time"]:
        low, high = run["ratio_quartiles"]
        assert f"| {run['threads']} | {run['ratio_median']:.3f} | {low:.3f} to {high:.3f} |" in README
        assert f"median of {run['pairs']} pairs" in README
    memory = record["memory"]
    said = (
        f"Over {memory['steps']:,} steps that no one reads, after the first {memory['unread_frames']}, tensors grow by"
    )
    assert f"{said} {memory['growth_bytes']} bytes" in README


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("https://") or (ROOT / target).exists(), target


def test_the_commands_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
