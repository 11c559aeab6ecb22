"""The short table of the README, from the records of accuracy and of cost; measures nothing.

python benchmarks/front_page.py
"""

from __future__ import annotations

import json
from typing import Any

import depth_cost
import nyu_heads
from depth_figures import HOST, PLAIN, find_ratio

RECORD = nyu_heads.RECORD
HEADS = {
    "tap-mixer": ("`tap-mixer`, the default head", "tap-mixer"),
    "space-clip-published": ("`space-clip`, the published decoder and loss", "space-clip"),
}
BASELINE = "constant median of the training depth"


def table(record: dict[str, Any]) -> str:
    """Accuracy of the two heads and of a constant; cost beside a tower of ViT-B/16's size, on one thread."""
    cost = json.loads(depth_cost.RECORD.read_text())
    [run] = [run for run in cost["runs"] if (run["device"], run["threads"]) == ("cpu", 1)]
    tower = f"{cost['sizes'][HOST]['gflop']:.1f}"
    header = (
        f"| What predicts depth | AbsRel ↓ | δ1 ↑ | parameters (M) | GFLOP (the tower: {tower}) | time / the tower's |"
    )
    lines = [header, "|---|---|---|---|---|---|"]
    for name, (title, architecture) in HEADS.items():
        scores, size = record["rows"][name]["one_forward"], cost["sizes"][f"{architecture} {PLAIN}"]
        ratio = find_ratio(run["ratios"], f"{architecture} {PLAIN}", HOST)["median"]
        cells = (title, f"{scores['abs_rel']['mean']:.3f}", f"{scores['delta1']['mean']:.3f}")
        cells += (f"{size['parameters'] / 1e6:.2f}", f"{size['gflop']:.2f}", f"{ratio:.2f}")
        lines.append(f"| {' | '.join(cells)} |")
    scores = record["baselines"][BASELINE]
    lines.append(f"| {BASELINE} | {scores['abs_rel']:.3f} | {scores['delta1']:.3f} | – | – | – |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(json.loads(RECORD.read_text())))
