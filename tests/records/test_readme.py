"""The README's figures are those of the recorded run, and its links lead somewhere."""

from __future__ import annotations

import json
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


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
