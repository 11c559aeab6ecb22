"""From the times of `depth_cost.py` to ratios, targets and tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from depth_cases import FUSED, GRAPHED, HOST, PLAIN
from training_cost import CACHED_NEW, CACHED_PUBLISHED, PUBLISHED, RECOMPUTED
from turns import spread

from spaceclip_plugin.head.architectures import ARCHITECTURES

Times = dict[str, dict[int, float]]
"""Milliseconds by case and round."""
TRAINING = (RECOMPUTED, CACHED_PUBLISHED, CACHED_NEW)


def figures(times: Times, new: str, rival: str) -> dict[str, Any]:
    """Times, every ratio that means something, and targets."""
    ms = {name: spread(list(values.values()), 3) for name, values in times.items() if values}
    pairs = [(name, HOST) for name in ms if name != HOST and name not in TRAINING]
    pairs += [(name, f"{HOST} {GRAPHED}") for name in ms if name.endswith(f" {GRAPHED}") and not name.startswith(HOST)]
    for name in ms:
        architecture, _, form = name.partition(" ")
        if architecture in ARCHITECTURES:
            bases = [f"{architecture} {PLAIN}"] if form != PLAIN else []
            bases += [f"{PUBLISHED} {PLAIN}"] if architecture != PUBLISHED else []
            pairs += [(name, base) for base in [*bases, rival]]
    pairs += [(RECOMPUTED, name) for name in (CACHED_PUBLISHED, CACHED_NEW) if name in ms]
    ratios = [{"of": of, "over": over, **ratio(times[of], times[over])} for of, over in pairs]
    return {"ms": ms, "ratios": ratios, "targets": targets(ratios, new, rival)}


def ratio(of: dict[int, float], over: dict[int, float]) -> dict[str, Any]:
    """Median and quartiles of the rounds in which both ran."""
    return spread([of[turn] / over[turn] for turn in of.keys() & over.keys()], 4)


def find_ratio(ratios: Sequence[dict[str, Any]], of: str, over: str) -> dict[str, Any] | None:
    """That ratio, if it was measured."""
    return next((one for one in ratios if (one["of"], one["over"]) == (of, over)), None)


def targets(ratios: Sequence[dict[str, Any]], new: str, rival: str) -> list[dict[str, Any]]:
    """The targets, what was measured, and whether they are met; one that was not measured is not met."""
    wanted = [
        ("host with the new head, fused, read / host alone", f"{HOST} + {new} {FUSED}", HOST, "at_most", 1.04),
        ("the same with the head as it is", f"{HOST} + {new}", HOST, "at_most", 1.04),
        ("new head, fused / published decoder", f"{new} {FUSED}", f"{PUBLISHED} {PLAIN}", "at_most", 0.08),
        ("the same with the head as it is", f"{new} {PLAIN}", f"{PUBLISHED} {PLAIN}", "at_most", 0.08),
        ("published decoder, fused / plain", f"{PUBLISHED} {FUSED}", f"{PUBLISHED} {PLAIN}", "at_most", 0.72),
        (f"new head, fused / {rival}, both eager", f"{new} {FUSED}", rival, "at_most", 0.015),
        ("training steps per second, new way / published way", RECOMPUTED, CACHED_NEW, "at_least", 25),
    ]
    found = []
    for text, of, over, kind, bound in wanted:
        one = find_ratio(ratios, of, over)
        value = one and one["median"]
        entry = {"target": text, "of": of, "over": over, kind: bound, "measured": value}
        found.append({**entry, "met": is_met(entry)})
    return found


def is_met(target: dict[str, Any]) -> bool:
    """Whether the measured ratio keeps to its bound."""
    value = target["measured"]
    if value is None:
        return False
    return value <= target["at_most"] if "at_most" in target else value >= target["at_least"]


def table(record: dict[str, Any]) -> str:
    """Sizes and times of everything, then the targets, as Markdown."""
    runs = record["runs"]
    columns = [
        "GPU" if run["device"] == "cuda" else f"{run['threads']} thread{'s' * (run['threads'] > 1)}" for run in runs
    ]
    names = dict.fromkeys(name for run in runs for name in run["ms"] if name not in TRAINING)
    lines = _header(["what runs", "parameters (M)", "GFLOP", "peak MB", *(f"time / host, {c}" for c in columns)])
    for name in names:
        size = record["sizes"].get(name)
        known = ["–"] * 3
        if size is not None:
            known = [f"{size['parameters'] / 1e6:.2f}", f"{size['gflop']:.2f}", f"{size['peak_mb']:.1f}"]
        lines.append(_row([name, *known, *(_time(run, name) for run in runs)]))
    lines += ["", *_header(["ratio", "wanted", *columns])]
    for number, target in enumerate(runs[0]["targets"]):
        bound = f"≤ {target['at_most']:g}" if "at_most" in target else f"≥ {target['at_least']:g}"
        lines.append(_row([target["target"], bound, *(_outcome(run, run["targets"][number]) for run in runs)]))
    others = [
        ("published decoder, fused and compiled / plain", f"{PUBLISHED} {FUSED} compiled", f"{PUBLISHED} {PLAIN}"),
        ("training steps per second, published decoder and loss, cached / published way", RECOMPUTED, CACHED_PUBLISHED),
    ]
    for text, of, over in others:
        found = [find_ratio(run["ratios"], of, over) for run in runs]
        lines.append(_row([text, "–", *("not measured" if one is None else _shown(one) for one in found)]))
    return "\n".join(lines)


def _time(run: dict[str, Any], name: str) -> str:
    if name == HOST:
        return f"1 ({run['ms'][HOST]['median']:.0f} ms)"
    one = find_ratio(run["ratios"], name, HOST)
    if one is None:
        return "–"
    return _shown(one) if name.startswith(f"{HOST} ") else f"{one['median']:.3f}"


def _outcome(run: dict[str, Any], target: dict[str, Any]) -> str:
    one = find_ratio(run["ratios"], target["of"], target["over"])
    return "not measured" if one is None else f"{_shown(one)} {'✓' if target['met'] else '✗'}"


def _shown(one: dict[str, Any]) -> str:
    median, low, high = (
        f"{value:.3f}" if value < 10 else f"{value:.1f}" for value in (one["median"], *one["quartiles"])
    )
    return f"{median} ({low} to {high})"


def _header(cells: list[str]) -> list[str]:
    return [_row(cells), "|" + "---|" * len(cells)]


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
