"""Does fine-tuning a policy cost its vision tower the geometry that depth is read from? One recipe, several towers.

    python benchmarks/towers.py --towers siglip=timm:vit_so400m_patch14_siglip_224.webli \\
        pi0=lerobot:lerobot/pi0_base smolvla=lerobot:lerobot/smolvla_base --runs DIR \\
        -- --data folder:train --val folder:val --protocol whole-image
    python benchmarks/towers.py --trial      (towers of random weights and rendered scenes: its figures mean nothing)

On every tower the same head is trained by the same recipe, and scored on the same validation data. The first tower is
the one that the others were fine-tuned from; where one is of its shape, the table also says how far its weights have
moved, and how well the first tower's head reads it without being trained again. What follows `--` goes to `spaceclip
train` as it is. A run that is already in --runs is not made again. No figures stand here: weights of CLIP, SigLIP or of
a policy were not at hand.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from nyu_heads import call

from spaceclip_plugin import attach_depth_head
from spaceclip_plugin._files import write_json
from spaceclip_plugin.errors import HeadMismatchError
from spaceclip_plugin.towers import load_host

READING = ("--protocol", "--depth-range", "--units-per-metre", "--val")
TRIAL = (
    "--data", "scenes:12:0", "--val", "scenes:4:1", "--protocol", "whole-image", "--depth-range", "0.1,10",
    "--epochs", "1", "--views", "1", "--features", "none", "--set", "channels=[32,16]", "--set", "convolutions=[1,1]",
)  # fmt: skip
TUNED_BY = 0.05  # how far the trial moves its second tower: a share of every weight's deviation


@dataclass(frozen=True)
class Entry:
    """A tower by the name that the table calls it, and the host that it is in."""

    name: str
    host: str

    @classmethod
    def of(cls, text: str) -> Entry:
        """From NAME=HOST."""
        name, equals, host = text.partition("=")
        if not (name and equals and host) or "/" in name:
            raise argparse.ArgumentTypeError(f"expected NAME=HOST, such as pi0=lerobot:lerobot/pi0_base, got {text!r}")
        return cls(name, host)


def row(entry: Entry, first: Entry, runs: Path, words: Sequence[str]) -> dict[str, Any]:
    """Train a head on a tower unless there is a run, and see what the first tower's head makes of that tower."""
    folder = runs / entry.name
    if not (folder / "run.json").is_file():
        call("train", "--host", entry.host, *words, "--out", str(folder))
    record = json.loads((folder / "run.json").read_text())
    if not record["finished"]:
        raise SystemExit(f"{folder} holds a run that was stopped; `spaceclip train --resume {folder}` finishes it")
    found = {"tower": entry.name, "host": entry.host, "validation": record["validation"], "moved": None, "lent": None}
    if entry != first:
        found |= of_the_first(runs / first.name / "head", entry, words)
    return found


def of_the_first(head: Path, entry: Entry, words: Sequence[str]) -> dict[str, Any]:
    """How far a tower lies from the first one, and what that one's head scores on it; nothing where it does not fit."""
    host = load_host(entry.host)
    with contextlib.suppress(HeadMismatchError), attach_depth_head(host, head, other_tower="warn") as depth:
        match = depth.tower_match
        moved = None if match is None else match.distance
        scored = call("eval", "--host", entry.host, "--head", str(head), "--other-tower", "ignore", *reading_of(words))
        return {"moved": moved, "lent": scored}
    return {}


def reading_of(words: Sequence[str]) -> list[str]:
    """Of the words of a training, those that say how validation data is read, for `spaceclip eval`."""
    found: list[str] = []
    for flag, value in zip(words, [*words[1:], ""], strict=True):
        if flag in READING:
            found += ["--data" if flag == "--val" else flag, value]
    return found


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = ["| Tower | AbsRel ↓ | RMSE (m) ↓ | δ1 ↑ | weights moved by | AbsRel of the first tower's head ↓ |"]
    lines.append("|---" * 6 + "|")
    for each in rows:
        scores, moved, lent = each["validation"], each["moved"], each["lent"]
        cells = [each["tower"], f"{scores['abs_rel']:.4f}", f"{scores['rmse']:.3f}", f"{scores['delta1']:.3f}"]
        cells += ["–" if moved is None else f"{100 * moved:.2g} %", "–" if lent is None else f"{lent['abs_rel']:.4f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def trial_towers(folder: Path) -> list[Entry]:
    """A small SigLIP tower of random weights, and the same a little moved."""
    torch.manual_seed(0)
    config = transformers.SiglipVisionConfig(
        hidden_size=48, intermediate_size=96, num_hidden_layers=4, num_attention_heads=3, image_size=64, patch_size=16
    )
    tower = transformers.SiglipVisionModel(config).eval()
    tower.save_pretrained(folder / "base")
    with torch.no_grad():
        for weights in tower.parameters():
            weights.add_(TUNED_BY * weights.std(unbiased=False) * torch.randn_like(weights))
    tower.save_pretrained(folder / "tuned")
    return [Entry(name, f"hf:{folder / name}") for name in ("base", "tuned")]


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Which towers, where the runs go, and what `spaceclip train` is told."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--towers", nargs="+", type=Entry.of, metavar="NAME=HOST", help="the first one is the base")
    parser.add_argument("--runs", type=Path, metavar="DIR", help="folder for the training runs and the record")
    parser.add_argument("--trial", action="store_true", help="small towers of random weights")
    parser.add_argument("train", nargs="*", help="after --: words of `spaceclip train`, data and all")
    args = parser.parse_args(argv)
    if not args.trial:
        if not (args.towers and args.runs and args.train):
            parser.error("--towers, --runs and, after --, the data are needed; or --trial")
        names = [entry.name for entry in args.towers]
        if len(set(names)) < len(names):
            parser.error(f"each tower needs a name of its own, got {', '.join(names)}")
        if "--data" not in args.train or "--val" not in args.train:
            parser.error("--data and --val are needed after --: all towers are scored on the same data")
    return args


def compare(towers: Sequence[Entry], runs: Path, words: Sequence[str]) -> list[dict[str, Any]]:
    """A row for every tower, recorded beside the runs."""
    rows = [row(entry, towers[0], runs, words) for entry in towers]
    write_json(runs / "towers.json", {"train": list(words), "rows": rows})
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    """Train what is missing, compare, print."""
    args = arguments(argv)
    if not args.trial:
        print(table(compare(args.towers, args.runs, args.train)))
        return
    with tempfile.TemporaryDirectory() as folder:
        rows = compare(trial_towers(Path(folder) / "towers"), Path(folder) / "runs", [*TRIAL, *args.train])
    print(table(rows))
    print("\nRandom weights, a few rendered scenes, one epoch: these figures mean nothing.")


if __name__ == "__main__":
    main()
