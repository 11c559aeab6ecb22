"""Everything that a GPU has to show, in one command of less than eight minutes.

    python benchmarks/gpu_check.py [--nyu DIR --weights deit_tiny_timm.safetensors]
    python benchmarks/gpu_check.py --device cpu --record FILE     (small sizes: tries the program, measures nothing)
    python benchmarks/gpu_check.py --table                        (the record as Markdown)

Parts run in order of worth, each in a process and within a time of its own, and are written as soon as they are done: a
part that fails, hangs or does not fit any more costs the others nothing. All weights are random but those of
the last part, of an ImageNet-supervised DeiT-Tiny, not CLIP; its depth is the 8-bit in-filled NYU labelled set.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from gpu_parts import PARTS, Scale, SkippedError

from spaceclip_plugin._files import write_json

RECORD = Path(__file__).parent / "results" / "gpu_check.json"
WHOLE_S = 470
LEAST_S = 5
"""A part is not begun with less time than that."""
TOLD = 600
"""Characters of what a failed part said last."""


def alone(part: str, args: argparse.Namespace, limit_s: float) -> dict[str, Any]:
    """One part in a process of its own."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        found = Path(name) / "found.json"
        words = [sys.executable, __file__, "--part", part, "--record", str(found), "--device", args.device]
        for flag in ("nyu", "weights"):
            if getattr(args, flag) is not None:
                words += [f"--{flag}", str(getattr(args, flag))]
        try:
            done = subprocess.run(words, capture_output=True, text=True, timeout=limit_s, check=False)
        except subprocess.TimeoutExpired:
            return {"stopped_after_s": round(limit_s, 1)}
        seconds = round(time.perf_counter() - began, 1)
        if not found.is_file():
            return {"failed": done.stderr[-TOLD:], "seconds": seconds}
        return {**json.loads(found.read_text()), "seconds": seconds}


def here(part: str, args: argparse.Namespace) -> dict[str, Any]:
    """The part itself."""
    torch.manual_seed(0)
    try:
        return {"found": PARTS[part][1](Scale.of(args.device), args)}
    except SkippedError as reason:
        return {"skipped": str(reason)}


def checked(args: argparse.Namespace) -> dict[str, Any]:
    """All parts, the record written after each."""
    began = time.perf_counter()
    place = torch.cuda.get_device_name() if args.device == "cuda" else "CPU, small sizes: its figures mean nothing"
    record: dict[str, Any] = {
        "command": f"python benchmarks/gpu_check.py --device {args.device}",
        "machine": f"{platform.machine()}, {place}, torch {torch.__version__}, transformers {transformers.__version__}",
        "parts": {},
    }
    for part in args.parts:
        left = args.whole - (time.perf_counter() - began)
        limit_s = min(PARTS[part][0], left)
        if limit_s < LEAST_S:
            record["parts"][part] = {"skipped": "no time was left"}
        else:
            print(f"{part}: at most {limit_s:.0f} s", file=sys.stderr, flush=True)
            record["parts"][part] = alone(part, args, limit_s)
        record["seconds"] = round(time.perf_counter() - began, 1)
        write_json(args.record, record)
    return record


def table(record: Mapping[str, Any]) -> str:
    """A row for each part: what it found, or why it found nothing."""
    lines = [f"On {record['machine']}:", "", "| part | seconds | found |", "|---|---|---|"]
    for name, part in record["parts"].items():
        said = next(f"{how}: {part[how]}" for how in ("found", "skipped", "failed", "stopped_after_s") if how in part)
        lines.append(f"| {name} | {part.get('seconds', '–')} | {' '.join(said.split()).replace('|', '/')} |")
    return "\n".join(lines)


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Where, what and for how long."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--nyu", type=Path, help="folder of NYU's lists, photos and depth")
    parser.add_argument("--weights", type=Path, help="DeiT-Tiny's weights, of timm")
    parser.add_argument("--whole", type=float, default=WHOLE_S, help=f"seconds of all parts (default: {WHOLE_S})")
    parser.add_argument("--record", type=Path, help="default, on a GPU: with the other results")
    parser.add_argument("--table", action="store_true", help="print the record as Markdown, and check nothing")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.record is None:
        args.record = RECORD
        if args.device == "cpu" and not args.table:
            parser.error("--device cpu tries the program, which is no record: say by --record where to write it")
    if args.device == "cuda" and not args.table and not torch.cuda.is_available():
        parser.error(f"torch {torch.__version__} finds no CUDA device here; --device cpu tries the program")
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Check, record, print; or print the record."""
    args = arguments(argv)
    if args.part is not None:
        os.environ.setdefault("KINETO_LOG_LEVEL", "5")  # the profiler tells standard error of every start and stop
        if args.device == "cpu":
            torch.set_num_threads(1)  # so small things only wait for each other
        write_json(args.record, json.loads(json.dumps(here(args.part, args))))
        return
    print(table(json.loads(args.record.read_text()) if args.table else checked(args)))


if __name__ == "__main__":
    main()
