"""What the record of `graft_policies.py` says: a table, and whether depth that was predicted helped a policy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

RECORD = Path(__file__).parent / "results" / "graft_policies.json"
TITLES = {
    "none": "nothing: the frozen policy",
    "lora": "LoRA of equal size, no bank",
    "shuffled": "graft, the bank of another picture",
    "raw": "graft, taps alone, no depth",
    "plane": "graft, a plane for depth",
    "predicted": "graft, **predicted depth**",
    "true": "graft, true depth",
}
CONTROLS = ("raw", "shuffled", "lora", "plane")
"""What predicted depth has to beat; the plane knows where the camera is, as true and predicted depth do."""

_DRAWS = 10_000


def table(record: dict[str, Any]) -> str:
    """Every row that was run, as Markdown."""
    lines = [
        "| demonstrations | what the policy reads | action error ↓ | success, % ↑ | beyond the frozen policy | "
        "predicted depth beyond it |",
        "|---|---|---|---|---|---|",
    ]
    for count, rows in record["demonstrations"].items():
        for row, title in TITLES.items():
            if row in rows:
                runs = rows[row]
                cells = [count, title, spread([run["error"] for run in runs], "{:.4f}"), "–", "–", "–"]
                if was_rolled(runs):
                    cells[3] = spread([100 * rate for rate in successes(runs).mean(axis=1)], "{:.0f}")
                    cells[4] = "–" if row == "none" else beyond(runs, rows["none"])
                    cells[5] = "–" if row == "predicted" else beyond(rows["predicted"], runs)
                lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def gains(rows: dict[str, Any], *, by_success: bool) -> dict[str, bool]:
    """Whether each of `CONTROLS` is beaten by predicted depth beyond the spread of seeds: its worst by the best."""

    def score(row: str) -> list[float]:
        return [*successes(rows[row]).mean(axis=1)] if by_success else [-run["error"] for run in rows[row]]

    return {control: bool(min(score("predicted")) > max(score(control))) for control in CONTROLS}


def successes(runs: Sequence[dict[str, Any]]) -> npt.NDArray[np.float64]:
    """(seeds, episodes) 1 for success."""
    return np.array([[int(one) for one in run["successes"]] for run in runs], dtype=np.float64)


def was_rolled(runs: Sequence[dict[str, Any]]) -> bool:
    """Whether every seed has its episodes."""
    return all("successes" in run for run in runs)


def difference(runs: Sequence[dict[str, Any]], others: Sequence[dict[str, Any]]) -> tuple[float, float, float]:
    """Mean paired difference of success, and its 95 % interval, for which episodes are drawn again and again."""
    each = (successes(runs) - successes(others)).mean(axis=0)
    drawn = np.random.default_rng(0).integers(len(each), size=(_DRAWS, len(each)))
    low, high = np.quantile(each[drawn].mean(axis=1), (0.025, 0.975))
    return float(each.mean()), float(low), float(high)


def beyond(runs: Sequence[dict[str, Any]], others: Sequence[dict[str, Any]]) -> str:
    """That difference, in points of a hundred."""
    if not (was_rolled(runs) and was_rolled(others)):
        return "–"
    mean, low, high = (100 * each for each in difference(runs, others))
    return f"{mean:+.1f} ({low:+.1f} to {high:+.1f})"


def spread(values: Sequence[float], form: str) -> str:
    """Their mean, and the lowest and highest in brackets."""
    mean = form.format(sum(values) / len(values))
    if len(values) == 1:
        return mean
    return f"{mean} ({form.format(min(values))} to {form.format(max(values))})"
