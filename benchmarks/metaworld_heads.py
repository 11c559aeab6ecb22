"""Train heads on one real frozen tower with the exact depth of Meta-World, and record how well and how sharp each is.

    MUJOCO_GL=egl python benchmarks/metaworld_heads.py --weights deit_tiny_timm.safetensors --runs DIR [--rows fine …]
    python benchmarks/metaworld_heads.py --table    (the table of benchmarks/README.md, from the record)

Needs the extra `[metaworld]`. The tower is an ImageNet-supervised ViT (DeiT-Tiny), not CLIP. Heads learn from 40 tasks,
and the best epoch is chosen on other episodes of those; scores are of the ten tasks that none was trained on. Half of
the pictures of training are drawn with varied surfaces, lights, lenses and places of the camera, half as policies in
the simulator see them; both kinds are scored. The row `moved` has more pictures, and others: with things beside and
above their places, marks of goals in the air, and a camera that comes nearer.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from nyu_heads import BF16, HOST, NEW, PUBLISHED, SPACE_CLIP, Row, call, check, parsed, rerun, shown, summary

from spaceclip_plugin import DepthAttachment, attach_depth_head
from spaceclip_plugin._files import write_json
from spaceclip_plugin.data import DepthSource, parse_source
from spaceclip_plugin.evaluation import Protocol, evaluate, get_protocol, mean_metrics
from spaceclip_plugin.evaluation.prediction import predict
from spaceclip_plugin.towers import load_host

RECORD = Path(__file__).parent / "results" / "metaworld_heads.json"
SETTINGS = ("--protocol", "whole-image", "--depth-range", "0.1,6", "--views", "2", "--epochs", "12")
VARIED, STANDARD = "varied", "standard"
LOOKS = (VARIED, STANDARD)
TRAIN = tuple(f"metaworld:{look}:1200" for look in LOOKS)
FEW = tuple(f"metaworld:{look}:150" for look in LOOKS)
"""For rows that are called so: what the published decoder can learn from in half an hour of a CPU."""
MOVED = ("metaworld:moved:2400", "metaworld:standard:1600", "metaworld:varied:1200")
VAL, TEST = "metaworld:validation:90", "metaworld:test:{look}:120"
CONSTANT = "constant median of the training depth"
METRICS = ("abs_rel", "rmse", "delta1")
EDGES = ("boundary_f1", "edge_accuracy_px", "edge_completeness_px", "abs_rel_near", "abs_rel_away")
EIGHT, SIXTEEN = ("--epochs", "8"), ("--epochs", "16")
DECODER = (*SPACE_CLIP, "--weight-decay", "0.01")
FINE = ("--preset", "fine", "--loss", "sharp", "--set", "empty=true")
NARROW = (*FINE, "--set", "channels=[96,48]", *BF16)
"""What has room beside NYU's head in the package."""
ROWS = {
    NEW: Row("tap-mixer, recommended recipe", BF16),
    "fine": Row("tap-mixer, preset fine, loss with steps", (*FINE, *BF16)),
    "narrow": Row("the same at three quarters of its width, 20 epochs", (*NARROW, "--epochs", "20")),
    "moved": Row("the same from 5,200 pictures, things, marks and camera moved in 2,400 of them", (*NARROW, *SIXTEEN)),
    PUBLISHED: Row("space-clip, recommended loss and views", (*DECODER, *EIGHT, *BF16)),
    "few-tap-mixer": Row("tap-mixer, recommended recipe, 300 pictures, 8 epochs", (*EIGHT, *BF16)),
    "few-fine": Row("tap-mixer, preset fine, 300 pictures, 8 epochs", ("--preset", "fine", *EIGHT, *BF16)),
    "few-space-clip": Row("space-clip, recommended loss and views, 300 pictures, 8 epochs", (*DECODER, *EIGHT, *BF16)),
}


def run(name: str, row: Row, seed: int, args: argparse.Namespace, recorded: dict[str, Any] | None) -> dict[str, Any]:
    """Train unless there is a run, in its folder or in the record, then score it on both looks of the unseen tasks."""
    folder = args.runs / f"{name}_s{seed}"
    host = [*HOST, "--host-weights", str(args.weights)]
    sources = MOVED if name == "moved" else FEW if name.startswith("few-") else TRAIN
    data = [word for source in sources for word in ("--data", source)] + ["--val", VAL]
    words = [*host, *data, "--out", str(folder), *SETTINGS, *row.flags, "--seed", str(seed)]
    short = {str(args.weights): args.weights.name, str(folder): folder.name}
    command = " ".join(["spaceclip train", *(short.get(word, word) for word in words)])
    if not (folder / "run.json").is_file():
        if recorded is not None and recorded["command"] == command:
            return recorded
        call("train", *words, *([] if args.cache is None else ["--cache", str(args.cache)]))
    record = json.loads((folder / "run.json").read_text())
    check(folder, words, record)
    return {
        "seed": seed,
        "command": command,
        **{look: scores(folder / "head", args.weights, look) for look in LOOKS},
        "run": {key: record[key] for key in sorted(record) if key != "tower"},
        "epochs": [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()],
    }


def protocol() -> Protocol:
    """Of every run and score."""
    return dataclasses.replace(get_protocol("whole-image"), min_depth_m=0.1, max_depth_m=6.0)


def opened(source: str) -> DepthSource:
    """A source by name; of the extra."""
    return parse_source(source).open(units_per_metre=1.0)


def scores(head: Path, weights: Path, look: str) -> dict[str, float]:
    """Means over pictures of the unseen tasks."""
    host = load_host(HOST[1], weights=weights)
    with torch.inference_mode(), attach_depth_head(host, head, other_tower="error") as attachment:
        source = opened(TEST.format(look=look))
        found = evaluate(attachment, source, protocol=protocol())
        emptiness = empty_shares(attachment, source)
    if found.edges is None:
        raise SystemExit("the pictures of the unseen tasks have no edge: were they drawn?")
    parts = ((found.mean, METRICS), (found.edges, EDGES))
    return {name: getattr(part, name) for part, names in parts for name in names} | emptiness


def empty_shares(attachment: DepthAttachment, source: DepthSource) -> dict[str, float]:
    """Shares of pixels that are called empty, of those with nothing behind them and of others; of heads that tell."""
    called, pixels = {True: 0, False: 0}, {True: 0, False: 0}
    for index in range(len(source)):
        sample = source[index]
        hw = (sample.depth_m.shape[0], sample.depth_m.shape[1])
        depth = predict(attachment, [sample.image], output_hw=hw, intrinsics=sample.intrinsics)
        if depth.empty is None:
            return {}
        said, nothing = depth.empty[0].numpy() > 0.5, np.isinf(sample.depth_m)
        for kind, where in ((True, nothing), (False, ~nothing)):
            called[kind] += int(said[where].sum())
            pixels[kind] += int(where.sum())
    return {"empty_found": called[True] / max(1, pixels[True]), "empty_wrongly": called[False] / max(1, pixels[False])}


def baseline() -> dict[str, dict[str, float]]:
    """What a constant scores, the median of the training depth: it has no edges."""
    rule = protocol()
    known = [depth_m[(depth_m > rule.min_depth_m) & (depth_m < rule.max_depth_m)] for depth_m in training_depth()]
    guess = float(np.median(np.concatenate(known)))
    found = {}
    for look in LOOKS:
        source = opened(TEST.format(look=look))
        samples = [source[index] for index in range(len(source))]
        metrics = [rule.score(torch.full(sample.depth_m.shape, guess), sample) for sample in samples]
        found[look] = {name: getattr(mean_metrics(metrics), name) for name in METRICS}
    return found


def training_depth() -> Iterator[npt.NDArray[np.float32]]:
    """(H, W) metres of every picture of training."""
    for name in TRAIN:
        source = opened(name)
        yield from (source[index].depth_m for index in range(len(source)))


def table(record: dict[str, Any]) -> str:
    """Every row that was run, as Markdown."""
    lines = [
        "| What predicts | head, M parameters | seeds | AbsRel ↓ | near edges / away ↓ | boundary F1 ↑ | "
        "edges off (px) ↓ | empty found / wrongly | AbsRel as policies see it ↓ | boundary F1 there ↑ |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in record["rows"].values():
        varied, standard = row["varied"], row["standard"]
        near, away = (shown(varied[f"abs_rel_{where}"], 3) for where in ("near", "away"))
        accuracy, completeness = (shown(varied[f"edge_{what}_px"], 1) for what in ("accuracy", "completeness"))
        empty = "–"
        if "empty_found" in varied:
            empty = " / ".join(f"{100 * varied[name]['mean']:.0f} %" for name in ("empty_found", "empty_wrongly"))
        cells = [
            row["title"], f"{row['runs'][0]['run']['head_parameters'] / 1e6:.2f}", str(len(row["runs"])),
            shown(varied["abs_rel"], 4), f"{near} / {away}", shown(varied["boundary_f1"], 3),
            f"{accuracy} / {completeness}", empty, shown(standard["abs_rel"], 4), shown(standard["boundary_f1"], 3),
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    for name, scored in record["baselines"].items():
        varied, standard = (f"{scored[look]['abs_rel']:.4f}" for look in LOOKS)
        lines.append(f"| {name} | – | – | {varied} | – | – | – | – | {standard} | – |")
    return "\n".join(lines)


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Where the weights and the runs are, and which rows are wanted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    return parsed(parser, argv, ROWS, needed=("weights", "runs"))


def looks(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Summaries of both looks, of all that their runs told."""
    return {look: summary(runs, look, list(runs[0][look])) for look in LOOKS}


def main(argv: Sequence[str] | None = None) -> None:
    """Train and score what is missing, record, print."""
    args = arguments(argv)
    record = json.loads(RECORD.read_text()) if RECORD.is_file() else {"rows": {}}
    if not args.table:
        record = {
            "what": "heads on a frozen DeiT-Tiny (ImageNet-supervised, not CLIP), 1,200 pictures of each of two looks "
            "of 40 tasks of Meta-World or as many as a row says, 90 of other episodes for the choice of the epoch, 120 "
            "of each look of ten unseen tasks for the scores",
            "machine": f"{platform.machine()}, torch {torch.__version__}",
            "rows": rerun(record, args, ROWS, run, looks),
            "baselines": {CONSTANT: baseline()},
        }
        write_json(RECORD, record)
    print(table(record))


if __name__ == "__main__":
    main()
