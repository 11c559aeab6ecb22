"""The tables of steady.py, and what was wanted, from its record."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

from steady_clips import HOLOLENS
from steady_ways import ALONE, BAD, CONSTANT, RUNNING, WAYS, WITH, WITHOUT

from spaceclip_plugin.steady.following import OTHER_WAY

Entry = dict[str, Any]
FLICKER, ABS_REL = {WITH: 0.3, WITHOUT: 0.5}, {WITH: 0.95, WITHOUT: 1.0}
WORST, WORST_BAD, RECOVERED, OFF = 1.01, 1.05, 1.05, 0.05
RECOVERED_AFTER = 2


def ratio(entry: Entry, way: str, name: str) -> float:
    """Of a way's figure to that of the frames alone."""
    return float(entry["ways"][way][name] / entry["ways"][ALONE][name])


def over_seeds(entries: Iterable[Entry]) -> list[Entry]:
    """Means over the seeds of a head, for every clip and stride."""
    groups: dict[tuple[str, str, int], list[Entry]] = defaultdict(list)
    for entry in entries:
        groups[entry["clip"], entry["head"], entry["stride"]].append(entry)
    return [
        entries[0]
        | {"seeds": len(entries), "ways": {way: _mean([one["ways"][way] for one in entries]) for way in WAYS}}
        for entries in groups.values()
    ]


def _mean(ways: list[dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in ways[0].items():
        if isinstance(value, float):
            found[name] = statistics.fmean(way[name] for way in ways)
        elif name == "covered":
            found[name] = {level: statistics.fmean(way[name][level] for way in ways) for level in value}
    return found


def targets(record: dict[str, Any]) -> list[tuple[str, str, str, bool]]:
    """What was wanted: what, of how much, how much it is, and whether that is it."""
    whole = over_seeds(record["clips"])
    headset = [entry for entry in whole if entry["clip"] == HOLOLENS]
    rendered = [entry for entry in whole if not entry["clip"].startswith(HOLOLENS)]
    rows = []
    for way, title in ((WITH, "with places"), (WITHOUT, "without places")):
        for where, entries in (("the headset's clip", headset), ("rendered clips", rendered)):
            for name, most in (("flicker", FLICKER[way]), ("abs_rel", ABS_REL[way])):
                what = f"{'AbsRel' if name == 'abs_rel' else name} over per frame, {title}, {where}"
                rows.append(_most(what, most, entries, lambda entry, w=way, n=name: ratio(entry, w, n)))
    for way, title in ((WITH, "with places"), (WITHOUT, "without places")):
        what = f"AbsRel over per frame, {title}, any head, clip and half"
        rows.append(_most(what, WORST, record["clips"], lambda entry, w=way: ratio(entry, w, "abs_rel")))
    for way, title in ((WITH, "with places"), (WITHOUT, "without places")):
        what = f"intervals of 50 and 90 % off by, {title}"
        rows.append(_most(what, OFF, whole, lambda entry, w=way: off(entry["ways"][w])))
    bad = [
        {"clip": f"{kind}, {entry['clip']}", **entry, "kind": kind, "found": found}
        for entry in record["bad_places"]
        for kind, found in entry["kinds"].items()
    ]
    alone = {(e["clip"], e["head"], e["seed"], e["stride"]): e["ways"][ALONE] for e in record["clips"]}

    def worse(one: Entry) -> float:
        own = alone[one["clip"], one["head"], one["seed"], one["stride"]]
        return float(one["found"]["abs_rel"] / own["abs_rel"])

    rows.append(_most("AbsRel over per frame, wrong places of any kind", WORST_BAD, bad, worse))
    for name, title in (("cuts", "after a cut"), ("moved", "where things moved, median")):
        what = f"AbsRel over per frame, {RECOVERED_AFTER} frames {title}"
        rows.append(_most(what, RECOVERED, record[name], lambda entry: entry["after"][RECOVERED_AFTER]))
    return rows


def off(way: dict[str, Any]) -> float:
    """How far coverage is from what the intervals say, at most."""
    return max(abs(share - float(level)) for level, share in way["covered"].items())


def _most(what: str, most: float, entries: list[Entry], of: Callable[[Entry], float]) -> tuple[str, str, str, bool]:
    if not entries:
        return what, f"≤ {most}", "–", False
    found = [of(entry) for entry in entries]
    worst = max(range(len(found)), key=found.__getitem__)
    met = sum(value <= most for value in found)
    said = f"{found[worst]:.3f} at most ({named(entries[worst])}); {met} of {len(found)}"
    return what, f"≤ {most}", said, met == len(found)


def named(entry: Entry) -> str:
    """Which one it is."""
    words = [entry.get("kind"), entry.get("cut", entry.get("clip")), entry.get("head")]
    if entry.get("stride", 1) != 1:
        words.append(f"every {entry['stride']}rd frame")
    if "places" in entry:
        words.append("with places" if entry["places"] else "without places")
    return ", ".join(word for word in words if word)


def table(record: dict[str, Any]) -> str:
    """All of the page's."""
    blocks = [_clips(record), _targets(record), _bad(record), _recovery(record)]
    if "cost" in record:
        blocks.append(_cost(record["cost"]))
    return "\n\n".join(blocks)


def _clips(record: dict[str, Any]) -> str:
    lines = [
        "| clip, every n-th frame | head, seeds | constant | per frame | running mean | without places | with places | "
        "over per frame: without | with | intervals of 50 and 90 % hold: per frame | without | with | TAE: per frame | "
        "without | with |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for entry in over_seeds(record["clips"]):
        ways = entry["ways"]
        cells = [f"{entry['clip']}, {entry['stride']}", f"{entry['head']}, {entry['seeds']}"]
        cells += [
            f"{ways[way]['abs_rel']:.3f} / {ways[way]['flicker']:.4f}"
            for way in (CONSTANT, ALONE, RUNNING, WITHOUT, WITH)
        ]
        for way in (WITHOUT, WITH):
            cells.append(f"{ratio(entry, way, 'abs_rel'):.2f} / {ratio(entry, way, 'flicker'):.2f}")
        for way in (ALONE, WITHOUT, WITH):
            cells.append(" and ".join(f"{100 * share:.0f}" for share in ways[way]["covered"].values()))
        cells += [f"{ways[way]['tae']:.4f}" for way in (ALONE, WITHOUT, WITH)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _targets(record: dict[str, Any]) -> str:
    lines = ["| target | wanted | measured, and how many meet it |", "|---|---|---|"]
    lines += [f"| {what} | {most} | {found} {'✓' if met else '✗'} |" for what, most, found, met in targets(record)]
    return "\n".join(lines)


def _bad(record: dict[str, Any]) -> str:
    alone = {(e["clip"], e["head"], e["seed"], e["stride"]): e["ways"][ALONE] for e in record["clips"]}
    lines = [
        "| places | AbsRel over per frame, lowest to highest | frames that were doubted, of | "
        "for the images' motion | for being the other way round | began anew |",
        "|---|---|---|---|---|---|",
    ]
    for kind in BAD:
        found = [(entry, entry["kinds"][kind]) for entry in record["bad_places"]]
        own = [alone[entry["clip"], entry["head"], entry["seed"], entry["stride"]] for entry, _ in found]
        cells = [kind]
        ratios = [one["abs_rel"] / mine["abs_rel"] for (_, one), mine in zip(found, own, strict=True)]
        cells.append(f"{min(ratios):.2f} to {max(ratios):.2f}")
        doubts = [one["doubts"] for _, one in found]
        other_way = sum(said.get(OTHER_WAY, 0) for said in doubts)
        total = sum(sum(said.values()) for said in doubts)
        cells.append(f"{total} of {sum(entry['frames'] - 1 for entry, _ in found)}")
        cells += [str(total - other_way), str(other_way), str(sum(sum(one["resets"].values()) for _, one in found))]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _recovery(record: dict[str, Any]) -> str:
    lines = [
        "| what happened | head | places | AbsRel over per frame in that frame | 1 later | 2 | 3 | 4 | began anew |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for entry in [*record["cuts"], *record["moved"]]:
        what = f"cut: {entry['cut']}" if "cut" in entry else f"{entry['clip']}: moved pixels, {entry['frames']} frames"
        resets = entry.get("resets")
        cells = [what, entry["head"], "told" if entry["places"] else "–"]
        cells += [f"{value:.2f}" for value in entry["after"]]
        cells.append("–" if resets is None else "; ".join(f"{at}: {why}" for at, why in resets.items()) or "no")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _cost(runs: list[dict[str, Any]]) -> str:
    lines = [
        "| threads | host | look / host | update without places / host | with places | with places, key frames, 90th "
        "percentile |",
        "|---|---|---|---|---|---|",
    ]
    for run in runs:
        cells = [str(run["threads"]), f"{run['host_ms']['median']:.0f} ms"]
        for name in ("look", WITHOUT, WITH):
            one = run["over_host"][name]
            cells.append(f"{one['median']:.3f} ({one['quartiles'][0]:.3f} to {one['quartiles'][1]:.3f})")
        cells.append(f"{run['key_frames_90th_percentile']:.3f} of {run['key_frames']}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
