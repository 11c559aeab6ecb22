"""The short table of the README and the line below it, from the records of accuracy and of cost; measures nothing.

python benchmarks/front_page.py
"""

from __future__ import annotations

import json
from typing import Any

import metaworld_heads
import nyu_heads
import step_tables
from step_tables import HOST, read_of

RECORD = nyu_heads.RECORD
PRESETS = {
    "tap-mixer": ("`standard`, the default head", "standard"),
    "light": ("`light`, for scale alone", "light"),
    "fine": ("`fine`, for outlines", "fine"),
}
PUBLISHED, TITLE = "space-clip-published", "`space-clip`, the published decoder and loss"
BASELINE = "constant median of the training depth"


def table(record: dict[str, Any]) -> str:
    """Accuracy of heads and of a constant on both kinds of data; cost beside a tower of ViT-B/16's size, one thread."""
    exact = json.loads(metaworld_heads.RECORD.read_text())
    cost = json.loads(step_tables.RECORD.read_text())
    sizes = cost["heads"]["found"]["sizes"]
    runs = [*cost["heads"]["found"]["runs"], *cost["vit-b"]["found"]]
    reads = {name: read for run in runs if run["threads"] == 1 for name, read in run["reads"].items()}
    lines = [
        "| What predicts depth | NYU: AbsRel ↓ | δ1 ↑ | unseen Meta-World tasks: AbsRel ↓ | boundary F1 ↑ | "
        f"parameters (M) | GFLOP (the tower: {sizes[HOST]['gflop']:.1f}) | time / the tower's |",
        "|---" * 8 + "|",
    ]

    def scores(row: str) -> list[str]:
        nyu = record["rows"].get(row, {}).get("one_forward")
        drawn = exact["rows"].get(row, {}).get(metaworld_heads.STANDARD)
        parts = ((nyu, ("abs_rel", "delta1")), (drawn, ("abs_rel", "boundary_f1")))
        return [f"{part[name]['mean']:.3f}" if part else "–" for part, names in parts for name in names]

    def costs(head: str, read: dict[str, float]) -> list[str]:
        size = sizes[head]
        return [f"{size['parameters'] / 1e6:.2f}", f"{size['gflop']:.2f}", f"{read['ratio']:.3f}"]

    rows = [[title, *scores(row), *costs(preset, reads[read_of(preset)])] for row, (title, preset) in PRESETS.items()]
    rows.append([TITLE, *scores(PUBLISHED), *costs("space-clip", reads["space-clip"])])
    constant, drawn = record["baselines"][BASELINE], exact["baselines"][BASELINE][metaworld_heads.STANDARD]
    guessed = (constant["abs_rel"], constant["delta1"], drawn["abs_rel"])
    rows.append([BASELINE, *(f"{value:.3f}" for value in guessed), *"––––"])
    return "\n".join([*lines, *(f"| {' | '.join(cells)} |" for cells in rows), "", step_tables.in_short(cost)])


if __name__ == "__main__":
    print(table(json.loads(RECORD.read_text())))
