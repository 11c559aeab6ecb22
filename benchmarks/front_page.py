"""The short table of the README, from the records of accuracy and of cost; measures nothing.

python benchmarks/front_page.py
"""

from __future__ import annotations

import json
from typing import Any

import depth_cost
import metaworld_heads
import nyu_heads
import preset_cost
from depth_figures import HOST, PLAIN, find_ratio

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
    cost, presets = json.loads(depth_cost.RECORD.read_text()), json.loads(preset_cost.RECORD.read_text())
    [run] = [run for run in cost["runs"] if (run["device"], run["threads"]) == ("cpu", 1)]
    [reads] = [run["read_over_host"] for run in presets["runs"] if run["threads"] == 1]
    tower = f"{cost['sizes'][HOST]['gflop']:.1f}"
    lines = [
        "| What predicts depth | NYU: AbsRel ↓ | δ1 ↑ | unseen Meta-World tasks: AbsRel ↓ | boundary F1 ↑ | "
        f"parameters (M) | GFLOP (the tower: {tower}) | time / the tower's |",
        "|---" * 8 + "|",
    ]

    def scores(row: str) -> list[str]:
        nyu = record["rows"].get(row, {}).get("one_forward")
        drawn = exact["rows"].get(row, {}).get(metaworld_heads.STANDARD)
        parts = ((nyu, ("abs_rel", "delta1")), (drawn, ("abs_rel", "boundary_f1")))
        return [f"{part[name]['mean']:.3f}" if part else "–" for part, names in parts for name in names]

    def size(of: dict[str, float], ratio: float) -> list[str]:
        return [f"{of['parameters'] / 1e6:.2f}", f"{of['gflop']:.2f}", f"{ratio:.3f}"]

    rows = [
        [title, *scores(row), *size(presets["sizes"][preset], reads[preset]["median"])]
        for row, (title, preset) in PRESETS.items()
    ]
    published = cost["sizes"][f"space-clip {PLAIN}"]
    ratio = find_ratio(run["ratios"], f"space-clip {PLAIN}", HOST)["median"]
    rows.append([TITLE, *scores(PUBLISHED), *size(published, ratio)])
    constant, drawn = record["baselines"][BASELINE], exact["baselines"][BASELINE][metaworld_heads.STANDARD]
    guessed = (constant["abs_rel"], constant["delta1"], drawn["abs_rel"])
    rows.append([BASELINE, *(f"{value:.3f}" for value in guessed), *"––––"])
    return "\n".join([*lines, *(f"| {' | '.join(cells)} |" for cells in rows)])


if __name__ == "__main__":
    print(table(json.loads(RECORD.read_text())))
