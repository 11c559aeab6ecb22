"""Whether `SteadyDepth` makes depth of video steady and no worse, with the camera's places and without, or wrong ones.

    MUJOCO_GL=egl python benchmarks/steady.py --data ../shared/data --weights FILE \\
        --nyu-heads DIR … embedded:nyu-deit-tiny --metaworld-heads DIR …
    python benchmarks/steady.py --part cost       (times; on a machine that does nothing else)
    python benchmarks/steady.py --table           (the tables of benchmarks/README.md, from the record)

Needs the extra `[metaworld]` but for the cost. Depth is metric and never aligned, at the size of the tower's image;
figures are `video_metrics`, by the true depth and places. Frames are every one of a clip, and every third. What the
record has of a clip and head, stays: take the file away to begin anew. The tower is an ImageNet-supervised ViT
(DeiT-Tiny), not CLIP; the depth of NYU is the 8-bit in-filled labelled set. The method was made with the headset's
clip, the hammer's and the box's in view; assembly and tabletop were kept aside.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from steady_clips import (
    ASSEMBLY,
    BOX,
    CLIPS,
    FARTHEST_M,
    HALVES,
    HEADS_OF,
    HOLOLENS,
    Seen,
    hololens,
    seen_by,
)
from steady_cost import cost
from steady_picture import time_slice, written
from steady_tables import table
from steady_ways import after_a_cut, figures, steadied, where_things_moved, with_bad_places

from spaceclip_plugin._files import write_json

RECORD = Path(__file__).parent / "results" / "steady.json"
PICTURE = Path(__file__).parents[1] / "examples" / "pictures" / "steady.png"
SECTIONS = ("clips", "bad_places", "cuts", "moved")
STRIDES = (1, 3)
CUT_AT, AFTER = 15, 5
CUTS = {"HoloLens, from frame 14 to 30": (HOLOLENS, HOLOLENS), "from box-close to assembly": (BOX, ASSEMBLY)}
FIGURES, COST, PICTURED = "figures", "cost", "picture"


def labelled(head: str, data: str) -> tuple[str, int]:
    """What a head is called, and its seed: by the folder of its run."""
    if ":" in head:
        return head, 0
    folder = Path(head).parent.name if Path(head).name == "head" else Path(head).name
    match = re.fullmatch(r"(.+)_s(\d+)", folder)
    if match is None:
        raise SystemExit(f"{head}: a run's folder is called NAME_sSEED")
    return f"{match[1]} of {'NYU' if data == 'nyu' else 'Meta-World'}", int(match[2])


def views(
    args: argparse.Namespace, done: Collection[tuple[str, str, int]]
) -> Iterator[tuple[str, str, int, Callable[[], Seen]]]:
    """Every clip that is not done as every head of its own sees it: its name, the head, the seed, and how to see it."""
    heads = {"nyu": args.nyu_heads, "metaworld": args.metaworld_heads}
    for clip, data in HEADS_OF.items():
        if clip == HOLOLENS and not (args.data / "hololens").is_dir():
            print(f"{clip} is left out: there is no {args.data / 'hololens'}")
            continue
        frames = hololens(args.data / "hololens") if clip == HOLOLENS else CLIPS[clip]()
        for trained_on in ("nyu", "metaworld") if data == "both" else (data,):
            for head in heads[trained_on]:
                name, seed = labelled(head, trained_on)
                if data == "both" and name.startswith("tap-mixer"):
                    continue  # one head of each world is enough for a clip that is of neither
                if (clip, name, seed) not in done:
                    yield clip, name, seed, partial(seen_by, loaded(head), args.weights, frames, FARTHEST_M[trained_on])


def loaded(head: str) -> str:
    """What names the head of a run's folder, or the head itself."""
    return str(Path(head) / "head") if (Path(head) / "head").is_dir() else head


def measured(args: argparse.Namespace, record: dict[str, Any]) -> None:
    """Everything but times, added to a record that is written after every clip and head; what it has, stays."""
    for name in SECTIONS:
        record.setdefault(name, [])
    first_seed: dict[tuple[str, str], Seen] = {}
    for clip, head, seed, view in views(args, {key(entry) for entry in record["clips"]}):
        seen = view()
        about = {"clip": clip, "head": head, "seed": seed}
        parts = {clip: seen}
        if clip == HOLOLENS and not head.startswith("embedded"):
            parts |= {name: seen.part(which) for name, which in HALVES.items()}
        known = {entry["head"] for entry in record["clips"] if entry["clip"] == clip}
        for name, part in parts.items():
            for stride in STRIDES:
                some = part.part(slice(None, None, stride))
                here = about | {"clip": name, "stride": stride, "frames": len(some)}
                record["clips"].append(here | {"ways": figures(some)})
                print(json.dumps(record["clips"][-1]), flush=True)
                if name == clip and not known:
                    record["bad_places"].append(here | {"kinds": with_bad_places(some)})
        for places in (False, True):
            found = where_things_moved(seen, places=places, frames=AFTER)
            if found is not None:
                record["moved"].append(about | {"places": places, "after": found[0], "frames": found[1]})
        if head not in known:
            first_seed[clip, head] = seen
            record["cuts"] += cuts(clip, head, first_seed)
        write_json(args.record, record)


def key(entry: dict[str, Any]) -> tuple[str, str, int]:
    """Which clip, head and seed an entry is of."""
    return entry["clip"], entry["head"], entry["seed"]


def cuts(clip: str, head: str, seen: dict[tuple[str, str], Seen]) -> Iterator[dict[str, Any]]:
    """What comes of cuts to that clip."""
    for name, (first, second) in CUTS.items():
        if second != clip or (first, head) not in seen:
            continue
        then = seen[second, head].part(slice(2 * CUT_AT, None) if first == second else slice(AFTER))
        for places in (False, True):
            cut = after_a_cut(seen[first, head].part(slice(CUT_AT)), then, places=places, frames=AFTER)
            yield {"cut": name, "head": head, "places": places, **cut.to_dict()}


def picture(args: argparse.Namespace) -> None:
    """Draw the headset's clip through the first head of NYU."""
    frames = hololens(args.data / "hololens")
    seen = seen_by(loaded(args.nyu_heads[0]), args.weights, frames, FARTHEST_M["nyu"])
    ways = {
        "per frame": seen.alone(),
        "steady, without places": [depth.depth_m[0] for depth in steadied(seen, [None] * len(seen))],
        "steady, with places": [depth.depth_m[0] for depth in steadied(seen, list(seen.places))],
    }
    written(time_slice(seen, ways), args.picture)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, record, print; or print the record as tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true", help="print the record as Markdown, and measure nothing")
    parser.add_argument("--part", choices=(FIGURES, COST, PICTURED), default=FIGURES)
    parser.add_argument("--data", type=Path, help="folder with hololens")
    parser.add_argument("--weights", type=Path, help="DeiT-Tiny weights in timm names, safetensors")
    parser.add_argument("--nyu-heads", nargs="*", default=[], help="folders of runs NAME_sSEED, or embedded:NAME")
    parser.add_argument("--metaworld-heads", nargs="*", default=[], help="folders of runs NAME_sSEED")
    parser.add_argument("--rounds", type=int, default=60, help="of the cost")
    parser.add_argument("--record", type=Path, default=RECORD)
    parser.add_argument("--picture", type=Path, default=PICTURE)
    args = parser.parse_args(argv)
    record = json.loads(args.record.read_text()) if args.record.is_file() else {}
    if not args.table:
        torch.set_num_threads(1)
        if args.part == COST:
            record["cost"] = [cost(args.rounds, threads) for threads in (1, 2)]
        elif None in (args.data, args.weights) or not args.nyu_heads:
            parser.error("measuring needs --data, --weights and --nyu-heads; or --table for the record")
        elif args.part == PICTURED:
            picture(args)
            return
        else:
            record |= {
                "command": "MUJOCO_GL=egl python benchmarks/steady.py --data ../shared/data --weights FILE --nyu-heads "
                "DIR … embedded:nyu-deit-tiny --metaworld-heads DIR …",
                "what": "AbsRel and flicker of depth of video, of each frame alone and as SteadyDepth gives it; "
                "DeiT-Tiny (ImageNet-supervised, not CLIP), NYU labelled, 8-bit in-filled",
                "machine": f"{platform.machine()}, CPU, 1 thread, torch {torch.__version__}",
            }
            measured(args, record)
        write_json(args.record, record)
    print(table(record))


if __name__ == "__main__":
    main()
