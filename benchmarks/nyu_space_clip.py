"""Train the published decoder on a real frozen tower and on its random twin, and record how well each does on NYU.

    python benchmarks/nyu_space_clip.py --nyu DIR --weights deit_tiny_timm.safetensors --runs DIR

The tower is an ImageNet-supervised ViT (DeiT-Tiny), not CLIP; the depth is the 8-bit in-filled NYU labelled set. A run
that is already in --runs is evaluated, not trained again; of one that was stopped, the best epoch so far, and the
result says so. Writes benchmarks/results/nyu_space_clip.json.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import platform
from pathlib import Path

import numpy as np
import torch

from spaceclip_plugin.cli import main as spaceclip
from spaceclip_plugin.data.depth_list import DepthList
from spaceclip_plugin.evaluation.metrics import mean_metrics
from spaceclip_plugin.evaluation.protocols import get_protocol

RESULTS = Path(__file__).parent / "results" / "nyu_space_clip.json"
HOST = "timm:deit_tiny_patch16_224"
RECIPE = ["--epochs", "16", "--batch-size", "8", "--lr", "3e-4", "--precision", "bf16"]
TRAIN, VAL = "train_695.txt", "val_100.txt"


def arguments() -> argparse.Namespace:
    """Where the data, the weights and the runs are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nyu", type=Path, required=True, help=f"folder with {TRAIN} and {VAL}")
    parser.add_argument("--weights", type=Path, required=True, help="DeiT-Tiny weights in timm names, safetensors")
    parser.add_argument("--runs", type=Path, required=True, help="folder for the two training runs")
    return parser.parse_args()


def call(*argv: str) -> dict:
    """One `spaceclip … --json`."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = spaceclip([*argv, "--json"])
    if code != 0:
        raise SystemExit(code)
    return json.loads(out.getvalue())


def run(name: str, host: list[str], args: argparse.Namespace) -> dict:
    """Train unless there is a run, then evaluate with one forward and with two."""
    folder = args.runs / name
    lists = ["--data", str(args.nyu / TRAIN), "--val", str(args.nyu / VAL)]
    record_path = folder / "run.json"
    if not record_path.is_file():
        call("train", *host, *lists, "--out", str(folder), *RECIPE)
    record = json.loads(record_path.read_text())
    head = folder / ("head" if record["finished"] else "best")
    evaluation = ["eval", *host, "--head", str(head), "--data", str(args.nyu / VAL)]
    shown_host = " ".join(word if word != str(args.weights) else args.weights.name for word in host)
    return {
        "command": f"spaceclip train {shown_host} --data {TRAIN} --val {VAL} --out {name} {' '.join(RECIPE)}",
        "one_forward": call(*evaluation),
        "two_forwards": call(*evaluation, "--flip"),
        "run": {key: record[key] for key in sorted(record) if key != "tower"},
        "epochs": [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()],
    }


def baselines(args: argparse.Namespace) -> dict:
    """What guesses without an image score: the training set's median depth, and its mean depth at each pixel."""
    protocol = get_protocol("nyu-eigen")
    train = DepthList(args.nyu / TRAIN, units_per_metre=protocol.depth_scale)
    depths = np.stack([train[i].depth_m for i in range(len(train))])
    val = DepthList(args.nyu / VAL, units_per_metre=protocol.depth_scale)
    guesses = {"constant_median": np.full_like(depths[0], np.median(depths)), "per_pixel_mean": depths.mean(axis=0)}
    return {
        name: vars(mean_metrics([protocol.score(torch.from_numpy(guess), val[i]) for i in range(len(val))]))
        for name, guess in guesses.items()
    }


def main() -> None:
    """Both towers, both guesses, one file."""
    args = arguments()
    result = {
        "what": "published SPACE-CLIP decoder on a frozen DeiT-Tiny (ImageNet-supervised, not CLIP), "
        "NYU labelled, 8-bit in-filled, 695 training and 100 validation images; best epoch chosen on the latter",
        "protocol": "nyu-eigen",
        "machine": f"{platform.machine()}, torch {torch.__version__}",
        "pretrained": run("nyu_deit", ["--host", HOST, "--host-weights", str(args.weights)], args),
        "random": run("nyu_random", ["--host", HOST], args),
        **baselines(args),
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    for name in ("pretrained", "random"):
        scores = result[name]["one_forward"]
        print(f"{name}: AbsRel {scores['abs_rel']:.4f}  RMSE {scores['rmse']:.3f}  delta1 {scores['delta1']:.3f}")
    for name in ("per_pixel_mean", "constant_median"):
        print(f"{name}: AbsRel {result[name]['abs_rel']:.4f}")
    print(RESULTS)


if __name__ == "__main__":
    main()
