"""The tables of policy_step.py, made from its record; a part that was not measured says so."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

RECORD = Path(__file__).parent / "results" / "policy_step.json"
HOST = "host"
SMALL_HW = (56, 56)
FULL, SMALL, GRID = "read()", f"read({SMALL_HW})", "read(patch grid)"
EVERY_STEP, EVERY_THIRD, IN_BACKGROUND = "every step", "every third step", "in the background"
RIVAL = "Depth Anything V2 Small"

TOWERS = {
    "vit-b": "CLIP ViT-B/16 at 224",
    "so400m-224": "SigLIP So400m/14 at 224",
    "so400m-384": "SigLIP So400m/14 at 384",
}
POLICIES = {
    "tower-alone": "a ViT-B/16 at 224 and nothing else",
    "one-call": "the same, all cameras in one call",
    "smolvla": "SmolVLA's size, float32",
    "pi0": "π0's size, bfloat16",
}
PRESETS = {
    "standard": ("scale and surfaces, the default", 0.03),
    "light": ("scale alone", 0.02),
    "fine": ("outlines, as for hands", 0.03),
}
SMALL_WANTED = 0.012
TARGETS = [
    ("standard / published", "a read of `standard` / of the published decoder", 0.08),
    ("published, fused / as it is", "the published decoder, fused / as it is", 0.72),
    ("standard / Depth Anything", f"a read of `standard` / {RIVAL} @518", 0.015),
]

Found = Mapping[str, Any]


def shown(one: Found, wanted: float | None = None, plus: float = 0.0) -> str:
    """A ratio with its interval, `plus` a step that it comes on top of, and whether it is as small as wanted."""
    ratio, low, high = (value + plus for value in (one["ratio"], *one["interval"]))
    met = "" if wanted is None else f", wanted ≤ {wanted + plus:g} {'✓' if ratio <= wanted + plus else '✗'}"
    return f"{ratio:.3f} ({low:.3f} to {high:.3f}){met}"


def towers(record: Found) -> str:
    """Reads of three sizes over a step of their tower; taps that nobody reads; instructions."""
    rows = []
    for part, name in TOWERS.items():
        for run in _found(record, part, default=()):
            cells = [shown(run["reads"][read], SMALL_WANTED if read == SMALL else None) for read in (FULL, SMALL, GRID)]
            rows.append([name, str(run["threads"]), f"{run['host_ms']:.0f} ms", *cells])
    counts = _found(record, "instructions", default={})
    if counts:
        cells = [f"{counts[read] / counts[HOST]:.3f}" for read in (FULL, SMALL, GRID)]
        rows.append([f"{TOWERS['vit-b']}, instructions", "1", f"{counts[HOST] / 1e9:.2f} billion", *cells])
    lines = _table(["tower", "threads", "its step", f"`{FULL}` / step", f"`{SMALL}`", f"`{GRID}`"], rows)
    for run in _found(record, "taps", default=()):
        lines.append(f"Taps that nobody reads, step with / without, {_threads(run)}: {shown(run['ratio'])}.")
    return "\n\n".join([*lines, *_lacking(record, [*TOWERS, "instructions", "taps"])])


def policies(record: Found) -> str:
    """Whole steps with depth over those without, by policy, threads and cameras."""
    rows = []
    for part, name in POLICIES.items():
        for row in _found(record, part, default=()):
            added = [shown(row["added"][way], plus=1.0) for way in (EVERY_STEP, EVERY_THIRD)]
            age = row["age_in_background"]
            behind = shown(row["with"][IN_BACKGROUND]) + (", none ready" if age is None else f", age {age:.1f}")
            rows.append([name, str(row["threads"]), str(row["cameras"]), f"{row['step_ms']:.0f} ms", *added, behind])
    names = ["policy", "threads", "cameras", "step without depth", EVERY_STEP, EVERY_THIRD, IN_BACKGROUND]
    return "\n\n".join([*_table(names, rows), *_lacking(record, list(POLICIES))])


def heads(record: Found) -> str:
    """What else gives depth beside a tower of ViT-B/16's size, and targets."""
    found = _found(record, "heads", default=None)
    if found is None:
        return "\n\n".join(_lacking(record, ["heads"]))
    runs = found["runs"]
    names = ["what runs after the tower", "parameters (M)", "GFLOP", "peak MB"]
    rows = []
    for name in (HOST, *runs[0]["reads"]):
        size = found["sizes"].get(name)
        known = ["–"] * 3
        if size is not None:
            known = [f"{size['parameters'] / 1e6:.2f}", f"{size['gflop']:.2f}", f"{size['peak_mb']:.1f}"]
        times = [f"1 ({run['host_ms']:.0f} ms)" if name == HOST else shown(run["reads"][name]) for run in runs]
        rows.append([name, *known, *times])
    wanted = [
        [text, f"≤ {bound}", *(f"{shown(run['more'][key])} {_mark(run['more'][key], bound)}" for run in runs)]
        for key, text, bound in TARGETS
    ]
    columns = [_threads(run) for run in runs]
    first = _table([*names, *(f"time / the tower's, {each}" for each in columns)], rows)
    return "\n\n".join([*first, *_table(["ratio", "wanted", *columns], wanted)])


def presets(record: Found) -> str:
    """The training guide's: what each preset is for, its size and time."""
    if lacking := _lacking(record, ["vit-b", "heads"]):
        return lacking[0]
    sizes, runs = record["heads"]["found"]["sizes"], record["vit-b"]["found"]
    rows = []
    for name, (purpose, wanted) in PRESETS.items():
        size = [f"{sizes[name]['parameters'] / 1e6:.2f}", f"{sizes[name]['gflop']:.2f}"]
        rows.append([f"`{name}`", purpose, *size, *(shown(run["reads"][read_of(name)], wanted) for run in runs)])
    columns = [f"{FULL} / host step, {_threads(run)}" for run in runs]
    [one] = _table(["`--preset`", "for", "parameters (M)", "GFLOP", *columns], rows)
    return one


def read_of(preset: str) -> str:
    """What the record calls a read of that preset beside a ViT-B/16."""
    return FULL if preset == "standard" else preset


def training(record: Found) -> str:
    """Steps a second over those of the published way."""
    found = _found(record, "training", default=None)
    if found is None:
        return "\n\n".join(_lacking(record, ["training"]))
    rows = [
        [name.partition("training: ")[2], f"{one['ratio']:.1f} ({one['interval'][0]:.1f} to {one['interval'][1]:.1f})"]
        for name, one in found.items()
        if name != "threads"
    ]
    [one] = _table(["training", "steps per second / the tower in every step, published decoder and loss"], rows)
    return one


def in_short(record: Found) -> str:
    """The front page's: what a read of the default head adds to a step, of a tower alone, measured twice, and of
    policies."""
    alone = []
    for run in record["vit-b"]["found"]:
        steps = [row for row in record["tower-alone"]["found"] if row["threads"] == run["threads"]]
        added = [run["reads"][FULL], *(row["added"][EVERY_STEP] for row in steps if row["cameras"] == 1)]
        alone.append(f"{_percent(added)} on {_threads(run)}")
    small, large = (
        _percent([row["added"][EVERY_STEP] for row in record[part]["found"]]) for part in ("smolvla", "pi0")
    )
    return (
        f"Read in every step, depth adds {' and '.join(alone)} to a ViT-B/16 alone; to a policy of one to three "
        f"cameras it adds {small} where it is of SmolVLA's size, {large} where of π0's (2 threads, random weights)."
    )


TABLES: dict[str, Callable[[Found], str]] = {
    "cost-towers": towers,
    "cost-policies": policies,
    "cost-heads": heads,
    "cost-training": training,
    "presets": presets,
}
"""By the mark of its place in a guide."""


def _percent(several: list[Found]) -> str:
    """The lowest and the highest ratio."""
    least, most = (f"{100 * end(one['ratio'] for one in several):.1f}" for end in (min, max))
    return f"{least} %" if least == most else f"{least} to {most} %"


def _found(record: Found, part: str, default: Any) -> Any:
    return record[part]["found"] if part in record else default


def _lacking(record: Found, parts: list[str]) -> list[str]:
    lacking = [part for part in parts if part not in record]
    return [f"Not measured yet: `python benchmarks/policy_step.py {' '.join(lacking)}`."] if lacking else []


def _threads(run: Found) -> str:
    return f"{run['threads']} thread{'s' * (run['threads'] > 1)}"


def _mark(one: Found, wanted: float) -> str:
    return "✓" if one["ratio"] <= wanted else "✗"


def _table(names: list[str], rows: list[list[str]]) -> list[str]:
    """One table; none where there are no rows."""
    lines = [f"| {' | '.join(row)} |" for row in (names, *rows)]
    return ["\n".join([lines[0], "|" + "---|" * len(names), *lines[1:]])] if rows else []
