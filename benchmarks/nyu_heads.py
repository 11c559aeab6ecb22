"""Train heads on one real frozen tower with NYU depth, and record how well each does.

    python benchmarks/nyu_heads.py --nyu DIR --weights deit_tiny_timm.safetensors --runs DIR [--rows tap-mixer …]
    python benchmarks/nyu_heads.py --table    (the table of benchmarks/README.md, from the record)

The tower is an ImageNet-supervised ViT (DeiT-Tiny), not CLIP; the depth is the 8-bit in-filled NYU labelled set; the
best epoch is chosen on the images that the figures are of. A run that is already in --runs is evaluated, not trained
again, if it is whole and of the same recipe; one that is recorded and not in --runs stays as recorded.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import json
import platform
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from spaceclip_plugin._files import write_json
from spaceclip_plugin.cli import main as spaceclip
from spaceclip_plugin.cli import train
from spaceclip_plugin.cli.train_config import new_run
from spaceclip_plugin.data.sources.depth_list import DepthList
from spaceclip_plugin.evaluation import get_protocol, mean_metrics
from spaceclip_plugin.head.architectures import architecture
from spaceclip_plugin.head.decoder import new_options

RECORD = Path(__file__).parent / "results" / "nyu_heads.json"
TAG = ".fb_in1k"  # what timm takes where none is named, as earlier commands did not
HOST = ["--host", f"timm:deit_tiny_patch16_224{TAG}"]
TRAIN, VAL = "train_695.txt", "val_100.txt"
METRICS = ("abs_rel", "rmse", "delta1")
BLOCKS = 12  # of the tower
OTHER_SIZES = ("192,256", "240,320")
"""Image sizes, of the photos' aspect ratio, at which a head that learnt from squashed 224x224 images is scored too."""
NEW, PUBLISHED = "tap-mixer", "space-clip"


@dataclass(frozen=True)
class Row:
    """A head and how it is trained.

    Attributes:
        title: what the table calls it.
        flags: of `spaceclip train`, after host, lists, seed and folder.
        seeds: one run each.
        pretrained: whether the tower has its weights; random ones else.
        image_size: "H,W" of the images the tower takes, its positions interpolated; None: its own 224x224.
    """

    title: str
    flags: tuple[str, ...]
    seeds: tuple[int, ...] = (0,)
    pretrained: bool = True
    image_size: str | None = None


BF16 = ("--precision", "bf16")
EIGHT = (*BF16, "--views", "8")  # versions of a photo, as was recommended when most rows were made
ATTENTION = ("--set", "attention=1")
TWICE = ("--set", "channels=[192,128,64]", "--set", "convolutions=[2,1,1]")
HEAVIER = ("--set", "attention=2", "--set", "taps=[1,2,3,6,9,12]", *TWICE)
SPACE_CLIP = ("--arch", PUBLISHED, "--lr", "3e-4")
ROWS = {
    NEW: Row("tap-mixer, recommended recipe", BF16, (0, 1, 2)),
    "eight-views": Row("tap-mixer, eight versions of a photo instead of four", EIGHT, (0, 1, 2)),
    "light": Row("tap-mixer, preset light", ("--preset", "light", *EIGHT)),
    "fine": Row("tap-mixer, preset fine", ("--preset", "fine", *EIGHT), (0, 1, 2)),
    PUBLISHED: Row(
        "space-clip, recommended loss and views",
        (*SPACE_CLIP, "--weight-decay", "0.01", "--epochs", "8", *EIGHT),
        (0, 1, 2),
    ),
    "space-clip-published": Row(
        "space-clip, published loss",
        (*SPACE_CLIP, "--recipe", "published", "--epochs", "16", "--batch-size", "8", *BF16),
    ),
    "aspect-kept": Row("tap-mixer, 192x256 images instead of 224x224", EIGHT, image_size="192,256"),
    "published-loss": Row("tap-mixer, published loss", (*EIGHT, "--loss", "published", "--set", "uncertainty=false")),
    "two-views": Row("tap-mixer, photos and mirror images alone", (*BF16, "--views", "2")),
    "attention": Row("tap-mixer with a self-attention block", (*EIGHT, *ATTENTION), (0, 1, 2)),
    "climbs-twice": Row(
        "that one climbing once more, to 56x56 with 64 channels", (*EIGHT, *ATTENTION, *TWICE), (0, 1, 2)
    ),
    "heavier": Row(
        "that one with two attention blocks, taps 1, 2, 3, 6, 9, 12",
        (*EIGHT, *HEAVIER),
        (0, 1, 2),
    ),
    "random-tower": Row("that one on the same tower with random weights", (*EIGHT, *HEAVIER), pretrained=False),
}


def call(*argv: str) -> Any:
    """One `spaceclip … --json`."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = spaceclip([*argv, "--json"])
    if code != 0:
        raise SystemExit(code)
    return json.loads(out.getvalue())


def run(name: str, row: Row, seed: int, args: argparse.Namespace, recorded: dict[str, Any] | None) -> dict[str, Any]:
    """Train unless there is a run, in its folder or in the record, then evaluate with one forward and with two."""
    folder = args.runs / f"{name}_s{seed}"
    host = [*HOST, "--host-weights", str(args.weights)] if row.pretrained else [*HOST, "--host-weights", "random"]
    host += [] if row.image_size is None else ["--image-size", row.image_size]
    lists = ["--data", str(args.nyu / TRAIN), "--val", str(args.nyu / VAL)]
    words = [*host, *lists, "--out", str(folder), *row.flags, "--seed", str(seed)]
    short = {str(args.weights): args.weights.name, lists[1]: TRAIN, lists[3]: VAL, str(folder): folder.name}
    command = " ".join(["spaceclip train", *(short.get(word, word) for word in words)])
    if not (folder / "run.json").is_file():
        if recorded is not None and recorded["command"].replace(TAG, "") == command.replace(TAG, ""):
            return recorded
        call("train", *words, *([] if args.cache is None else ["--cache", str(args.cache)]))
    record = json.loads((folder / "run.json").read_text())
    check(folder, words, record)
    evaluation = ["eval", *host, "--head", str(folder / "head"), "--data", str(args.nyu / VAL)]
    return {
        "seed": seed,
        "command": command,
        "one_forward": call(*evaluation),
        "two_forwards": call(*evaluation, "--flip"),
        "run": {key: record[key] for key in sorted(record) if key != "tower"},
        "epochs": [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()],
    }


def other_sizes(args: argparse.Namespace) -> list[dict[str, Any]] | None:
    """One default head with the tower built for other image sizes, the first there is; None where there is no run."""
    heads = {seed: args.runs / f"{NEW}_s{seed}" / "head" for seed in ROWS[NEW].seeds}
    seed = next((seed for seed, head in heads.items() if head.is_dir()), None)
    if seed is None:
        return None
    host = [*HOST, "--host-weights", str(args.weights)]
    rest = ["--head", str(heads[seed]), "--data", str(args.nyu / VAL)]
    return [
        {"image_size": size, "seed": seed, "one_forward": call("eval", *host, "--image-size", size, *rest)}
        for size in OTHER_SIZES
    ]


def check(folder: Path, words: Sequence[str], record: dict[str, Any]) -> None:
    """Stop where a folder holds a run that those words of `spaceclip train` did not make, or not to its end."""
    parser = argparse.ArgumentParser()
    train.add_arguments(parser)
    args = parser.parse_args(words)
    wanted = new_run(args)
    # A run from before a setting was one says nothing of it.
    recipe = {**vars(wanted.recipe), **record["recipe"]}
    kind = architecture(wanted.head.architecture).options
    preset = kind.for_blocks(record["head"].get("blocks") or BLOCKS, wanted.head.preset)
    options = {**json.loads(json.dumps(dataclasses.asdict(preset))), **wanted.head.options}
    earlier = {name: option.before for name, option in new_options(kind).items()}  # in heads from before there were any
    found = {**earlier, **json.loads(json.dumps(record["head"]["options"]))}
    trained = (recipe, record["head"]["architecture"], found)
    if not record["finished"] or trained != (vars(wanted.recipe), wanted.head.architecture, options):
        raise SystemExit(f"{folder.name} holds a run that was stopped, or another one; remove it to train this one")


def summary(
    runs: Sequence[dict[str, Any]], scores: str, metrics: Sequence[str] = METRICS
) -> dict[str, dict[str, float]]:
    """Mean, lowest and highest of every metric over the seeds."""
    found = {}
    for metric in metrics:
        values = [run[scores][metric] for run in runs]
        found[metric] = {"mean": statistics.fmean(values), "low": min(values), "high": max(values)}
    return found


def baselines(args: argparse.Namespace) -> dict[str, Any]:
    """What guesses without an image score: the training set's median depth, and its mean depth at each pixel."""
    protocol = get_protocol("nyu-eigen")
    training = DepthList(args.nyu / TRAIN, units_per_metre=protocol.depth_scale)
    depths = np.stack([training[i].depth_m for i in range(len(training))])
    val = DepthList(args.nyu / VAL, units_per_metre=protocol.depth_scale)
    guesses = {
        "per-pixel mean of the training depth": depths.mean(axis=0),
        "constant median of the training depth": np.full_like(depths[0], np.median(depths)),
    }
    return {
        name: vars(mean_metrics([protocol.score(torch.from_numpy(guess), val[i]) for i in range(len(val))]))
        for name, guess in guesses.items()
    }


def table(record: dict[str, Any]) -> str:
    """Every row that was run, as Markdown."""
    lines = [
        "| What predicts | head, M parameters | seeds | AbsRel ↓ | RMSE (m) ↓ | δ1 ↑ | AbsRel with flip | "
        "intervals of 50 and 90 % hold |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in record["rows"].values():
        one, two = row["one_forward"], row["two_forwards"]
        parameters = f"{row['runs'][0]['run']['head_parameters'] / 1e6:.2f}"
        cells = [row["title"], parameters, str(len(row["runs"])), shown(one["abs_rel"], 4), shown(one["rmse"], 3)]
        cells += [shown(one["delta1"], 3), shown(two["abs_rel"], 4), _coverage(row["runs"])]
        lines.append(f"| {' | '.join(cells)} |")
    for name, scores in record["baselines"].items():
        lines.append(
            f"| {name} | – | – | {scores['abs_rel']:.4f} | {scores['rmse']:.3f} | {scores['delta1']:.3f} | – | – |"
        )
    return "\n".join(lines)


def _coverage(runs: Sequence[dict[str, Any]]) -> str:
    """Mean share of pixels in the intervals, on images that their width was not fitted on."""
    found = [run["run"].get("uncertainty") for run in runs]
    known = [one["cross_checked"] for one in found if one is not None]
    if len(known) < len(found):
        return "–"
    return " and ".join(f"{100 * statistics.fmean(one[level] for one in known):.1f}" for level in ("0.5", "0.9"))


def forwards(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Summaries of one and of two forwards."""
    return {which: summary(runs, which) for which in ("one_forward", "two_forwards")}


def shown(metric: dict[str, float], digits: int) -> str:
    """The mean, and the lowest and highest where they differ."""
    mean = f"{metric['mean']:.{digits}f}"
    if metric["low"] == metric["high"]:
        return mean
    return f"{mean} ({metric['low']:.{digits}f} to {metric['high']:.{digits}f})"


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Where the data, the weights and the runs are, and which rows are wanted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nyu", type=Path, help=f"folder with {TRAIN} and {VAL}")
    return parsed(parser, argv, ROWS, needed=("nyu", "weights", "runs"))


def parsed(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None, rows: Iterable[str], *, needed: Sequence[str]
) -> argparse.Namespace:
    """What benchmarks that train heads are told, all of `needed` unless the record is only to be printed."""
    parser.add_argument("--weights", type=Path, help="DeiT-Tiny weights in timm names, safetensors")
    parser.add_argument("--runs", type=Path, help="folder for the training runs")
    parser.add_argument("--cache", type=Path, help="folder of features that runs share (default: each makes its own)")
    parser.add_argument("--rows", nargs="+", choices=list(rows), default=list(rows), help="others stay as recorded")
    parser.add_argument("--table", action="store_true", help="print the record as Markdown, and stop")
    args = parser.parse_args(argv)
    if not args.table and None in (getattr(args, name) for name in needed):
        parser.error(f"{', '.join(f'--{name}' for name in needed)} say where everything is; or --table for the record")
    return args


def rerun(
    record: dict[str, Any],
    args: argparse.Namespace,
    rows: Mapping[str, Row],
    run_one: Callable[[str, Row, int, argparse.Namespace, dict[str, Any] | None], dict[str, Any]],
    summed: Callable[[Sequence[dict[str, Any]]], dict[str, Any]],
) -> dict[str, Any]:
    """The rows of a record, those that are wanted made anew where they are not there."""
    made = dict(record["rows"])
    for name in args.rows:
        recorded = {one["seed"]: one for one in made.get(name, {"runs": []})["runs"]}
        runs = [run_one(name, rows[name], seed, args, recorded.get(seed)) for seed in rows[name].seeds]
        made[name] = {"title": rows[name].title, **summed(runs), "runs": runs}
    return {name: made[name] for name in rows if name in made}


def main(argv: Sequence[str] | None = None) -> None:
    """Train and evaluate what is missing, record, print."""
    args = arguments(argv)
    record = json.loads(RECORD.read_text()) if RECORD.is_file() else {"rows": {}}
    if not args.table:
        record = {
            "what": "heads on a frozen DeiT-Tiny (ImageNet-supervised, not CLIP), NYU labelled, 8-bit in-filled, 695 "
            "training and 100 validation images; best epoch chosen on the latter",
            "protocol": "nyu-eigen",
            "machine": f"{platform.machine()}, torch {torch.__version__}",
            "rows": rerun(record, args, ROWS, run, forwards),
            "other_sizes": other_sizes(args) or record.get("other_sizes", []),
            "baselines": baselines(args),
        }
        write_json(RECORD, record)
    print(table(record))


if __name__ == "__main__":
    main()
