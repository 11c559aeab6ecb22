"""Whether metres are true in cameras that a head never saw, whether its intervals hold there, and whether it knows.

    python benchmarks/true_metres.py --head DIR --before DIR --data ../shared/data --weights FILE
    python benchmarks/true_metres.py --table      (the table of benchmarks/README.md, from the record)

`--before` is a head trained before heads kept their focal length and what they were trained on. Every image is
stretched to the tower's as evaluation does, never aligned, and scored at its depth map's own size between 0.1 and 10 m,
KITTI's up to 80 m; figures are means over images. The tower is an ImageNet-supervised ViT (DeiT-Tiny), not CLIP; the
depth of NYU is the 8-bit in-filled labelled set, and epoch and width of the intervals were chosen on the same images.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spaceclip_plugin import DepthHead, DepthMap, attach_depth_head
from spaceclip_plugin._files import write_json
from spaceclip_plugin.attach import DepthAttachment
from spaceclip_plugin.data import DepthList, DepthSample, DepthSource, ImageFolder, parse_source, prepare
from spaceclip_plugin.depth import Intrinsics
from spaceclip_plugin.depth.depth_map import UNFAMILIAR
from spaceclip_plugin.evaluation import Protocol, get_protocol, predict
from spaceclip_plugin.evaluation.calibration import coverage, normalised_residuals
from spaceclip_plugin.towers.hosts import load_host

RECORD = Path(__file__).parent / "results" / "true_metres.json"
HOST = "timm:deit_tiny_patch16_224"
LEVEL = 0.9
HOME, ZOOMS = "NYU validation", (0.8, 0.6)
KITTI_FOCAL_PX, MM, KITTI_UNITS = 721.5377, 1000.0, 256.0
NEAREST_M, FARTHEST_M, KITTI_FARTHEST_M = 0.1, 10.0, 80.0
LEAST_AUROC, MOST_FLAGGED_AT_HOME = 0.97, 0.05
MEAN_COVERAGE, LEAST_COVERAGE, OFF_AT_HOME = 0.80, 0.50, 0.03


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images of one camera.

    Attributes:
        source: their pairs.
        protocol: how they are scored.
        change: of each sample, before anyone sees it.
        kind: "home", like the training's; "zoomed", the same through a longer lens; "robot", of the cameras whose
            intervals have to hold on average; "road".
    """

    source: DepthSource
    protocol: Protocol
    change: Callable[[DepthSample], DepthSample] = lambda sample: sample
    kind: str = "robot"


def zoomed(sample: DepthSample, share: float) -> DepthSample:
    """The middle of a photo and of its depth, that share of each side: what a longer lens would show."""
    height, width = sample.depth_m.shape
    rows, columns = round(share * height), round(share * width)
    top, left = (height - rows) // 2, (width - columns) // 2
    inside = slice(top, top + rows), slice(left, left + columns)
    camera = None if sample.intrinsics is None else sample.intrinsics.cropped(top, left, (rows, columns))
    return DepthSample(
        np.ascontiguousarray(sample.image[inside]), sample.depth_m[inside].copy(), sample.name, intrinsics=camera
    )


def image_sets(data: Path) -> dict[str, ImageSet]:
    """Every set by its name."""
    whole = get_protocol("whole-image").with_range(NEAREST_M, FARTHEST_M)
    nyu = DepthList(data / "nyu" / "val_100.txt", units_per_metre=MM)
    sets = {HOME: ImageSet(nyu, get_protocol("nyu-eigen-inner").with_range(NEAREST_M, FARTHEST_M), kind="home")}
    for share in ZOOMS:
        sets[f"NYU, {share:.0%} of it"] = ImageSet(
            nyu, whole, lambda sample, share=share: zoomed(sample, share), "zoomed"
        )
    matrix = torch.from_numpy(np.loadtxt(data / "hololens" / "K.txt"))

    def of_hololens(sample: DepthSample) -> DepthSample:
        return replace(sample, intrinsics=Intrinsics.from_matrix(matrix, sample.depth_m.shape))

    def of_kitti(sample: DepthSample) -> DepthSample:
        (height, width), focal = sample.depth_m.shape, KITTI_FOCAL_PX
        return replace(sample, intrinsics=Intrinsics(focal, focal, width / 2, height / 2, (height, width)))

    sets["HoloLens"] = ImageSet(ImageFolder(data / "hololens", images="images", units_per_metre=MM), whole, of_hololens)
    for folder in sorted(path for path in (data / "cameras").iterdir() if path.is_dir()):
        sets[folder.name] = ImageSet(parse_source(f"folder:{folder}").open(units_per_metre=MM), whole)
    road = get_protocol("whole-image").with_range(NEAREST_M, KITTI_FARTHEST_M)
    sets["KITTI"] = ImageSet(ImageFolder(data / "kitti", units_per_metre=KITTI_UNITS), road, of_kitti, "road")
    return sets


@dataclass(frozen=True)
class Seen:
    """What a head made of one image; see `measured`."""

    focal: float
    as_read: float
    in_camera: float
    one_scale: float
    covered: float
    familiarity: float | None
    distance: float | None


def seen(attachment: DepthAttachment, sample: DepthSample, protocol: Protocol) -> Seen:
    """Score one image."""
    image, camera = protocol.input_image(sample), protocol.input_intrinsics(sample)
    if camera is None:
        raise SystemExit(f"{sample.name} has no intrinsics")
    as_read = predict(attachment, [image], output_hw=protocol.prediction_hw(sample.depth_m.shape))
    depth = as_read.with_intrinsics(camera)
    compared = protocol.compared(depth.depth_m, sample)
    valid, truth = compared.valid, compared.target_m
    scale = truth[valid].median() / compared.maps_m[0][valid].median()

    def abs_rel(depth_m: Tensor) -> float:
        return protocol.score(depth_m, sample).abs_rel

    return Seen(
        focal=camera.focal_length[0],
        as_read=abs_rel(as_read.depth_m[0]),
        in_camera=abs_rel(depth.depth_m[0]),
        one_scale=abs_rel(scale * depth.depth_m[0]),
        covered=covered(depth, sample, protocol),
        familiarity=None if depth.familiarity is None else float(depth.familiarity[0]),
        distance=distance(attachment, image),
    )


def covered(depth: DepthMap, sample: DepthSample, protocol: Protocol) -> float:
    """Share of an image's pixels that the interval of `LEVEL` holds."""
    if depth.uncertainty_m is None:
        raise SystemExit("the head gives no uncertainty; train one with uncertainty=True")
    compared = protocol.compared(torch.cat([depth.depth_m, depth.uncertainty_m]), sample)
    return coverage(normalised_residuals(*compared.maps_m, compared.target_m, valid=compared.valid), LEVEL)


def distance(attachment: DepthAttachment, image: Any) -> float | None:
    """Of an image from those of the training, which familiarity is made of; None where the head cannot tell."""
    known = attachment.head.familiarity
    if known is None:
        return None
    attachment.refresh(prepare([image], attachment.tower), mapping=None)
    tokens = attachment.features()[-1].hidden[known.options.tap].mean(dim=(2, 3))
    return float(known.distance(tokens)[0])


def auroc(home: Sequence[float], other: Sequence[float]) -> float:
    """How often one of `home` is less than one of `other`; equal ones count half."""
    one, two = np.asarray(home)[:, None], np.asarray(other)[None]
    return float(np.mean((one < two) + 0.5 * (one == two)))


def measured(head: DepthHead, weights: Path, sets: dict[str, ImageSet]) -> dict[str, list[Seen]]:
    """Every image of every set, as that head sees it."""
    with attach_depth_head(load_host(HOST, weights=weights), head) as attachment:
        return {
            name: [seen(attachment, one.change(one.source[index]), one.protocol) for index in range(len(one.source))]
            for name, one in sets.items()
        }


def row(now: Sequence[Seen], home: Sequence[Seen], before: Sequence[Seen] | None, kind: str) -> dict[str, Any]:
    """The figures of one set."""

    def mean(images: Sequence[Seen], name: str) -> float:
        return round(statistics.fmean(getattr(image, name) for image in images), 4)

    def values(images: Sequence[Seen], name: str, sign: int = 1) -> list[float]:
        return [sign * getattr(image, name) for image in images]

    familiarity = values(now, "familiarity")
    foreign = kind != "home"
    return {
        "kind": kind,
        "images": len(now),
        "focal_over_width": round(statistics.fmean(values(now, "focal")), 4),
        "before": None
        if before is None
        else {name: mean(before, name) for name in ("as_read", "one_scale", "covered")},
        **{f"abs_rel_{name}": mean(now, name) for name in ("as_read", "in_camera", "one_scale")},
        "covered": mean(now, "covered"),
        "familiarity_median": round(statistics.median(familiarity), 4),
        "unfamiliar": round(statistics.fmean(one < UNFAMILIAR for one in familiarity), 4),
        "auroc": round(auroc(values(home, "familiarity", -1), values(now, "familiarity", -1)), 4) if foreign else None,
        "auroc_of_distance": round(auroc(values(home, "distance"), values(now, "distance")), 4) if foreign else None,
    }


def targets(rows: dict[str, dict[str, Any]]) -> list[tuple[str, str, str, bool]]:
    """What was wanted: what, of how much, how much it is, and whether that is it."""
    strange = {name: row for name, row in rows.items() if row["kind"] in ("robot", "road")}
    home = rows[HOME]
    low = min(strange, key=lambda name: strange[name]["auroc"])
    mean = statistics.fmean(row["covered"] for row in strange.values() if row["kind"] == "robot")
    least = min(rows, key=lambda name: rows[name]["covered"])
    return [
        (
            "AUROC by familiarity, every other camera's images",
            f"≥ {LEAST_AUROC}",
            f"{strange[low]['auroc']:.3f} ({low})",
            strange[low]["auroc"] >= LEAST_AUROC,
        ),
        (
            "NYU validation called unfamiliar",
            f"≤ {MOST_FLAGGED_AT_HOME:.0%}",
            f"{home['unfamiliar']:.0%}",
            home["unfamiliar"] <= MOST_FLAGGED_AT_HOME,
        ),
        (
            f"interval of {LEVEL:.0%} at home",
            f"{LEVEL - OFF_AT_HOME:.0%} to {LEVEL + OFF_AT_HOME:.0%}",
            f"{home['covered']:.1%}",
            abs(home["covered"] - LEVEL) <= OFF_AT_HOME,
        ),
        (
            "the same, mean over HoloLens and robots' cameras",
            f"≥ {MEAN_COVERAGE:.0%}",
            f"{mean:.0%}",
            mean >= MEAN_COVERAGE,
        ),
        (
            "the same, any set",
            f"≥ {LEAST_COVERAGE:.0%}",
            f"{rows[least]['covered']:.0%} ({least})",
            rows[least]["covered"] >= LEAST_COVERAGE,
        ),
    ]


def about(folder: Path, head: DepthHead) -> dict[str, Any]:
    """What a head was trained on, and how far, where its run lies around it."""
    run = folder.parent / "run.json"
    kept = json.loads(run.read_text()) if run.is_file() else {}
    return {
        "trained_on": head.config.trained_on,
        "focal_length": head.config.focal_length,
        **{name: kept.get(name) for name in ("protocol", "finished", "best_epoch", "recipe")},
    }


def table(record: dict[str, Any]) -> str:
    """The page's: a row for every set, and what was wanted."""
    lines = [
        "| images | number | focal length / width | AbsRel, a head from before | as read | in its camera | after one "
        "true scale | interval of 90 % holds, before | now | familiarity | unfamiliar | AUROC | by distance |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in record["sets"].items():
        before = row["before"]
        cells = [name, str(row["images"]), f"{row['focal_over_width']:.2f}"]
        cells += [_shown(before and before["as_read"])]
        cells += [_shown(row[f"abs_rel_{way}"]) for way in ("as_read", "in_camera", "one_scale")]
        cells += ["–" if before is None else f"{before['covered']:.0%}", f"{row['covered']:.0%}"]
        cells += [f"{row['familiarity_median']:.2f}", f"{row['unfamiliar']:.0%}"]
        cells += [_shown(row["auroc"]), _shown(row["auroc_of_distance"])]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "| target | wanted | measured |", "|---|---|---|"]
    lines += [
        f"| {what} | {wanted} | {found} {'✓' if met else '✗'} |" for what, wanted, found, met in targets(record["sets"])
    ]
    return "\n".join(lines)


def _shown(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print, record; or print the record as a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true", help="print the record as Markdown, and measure nothing")
    parser.add_argument("--head", type=Path, help="folder of a head that tells focal length and familiarity")
    parser.add_argument("--before", type=Path, help="folder of one that does not, of the same recipe")
    parser.add_argument("--data", type=Path, help="folder with nyu, hololens, cameras and kitti")
    parser.add_argument("--weights", type=Path, help="DeiT-Tiny weights in timm names, safetensors")
    parser.add_argument("--record", type=Path, default=RECORD)
    args = parser.parse_args(argv)
    if args.table:
        print(table(json.loads(args.record.read_text())))
        return
    if None in (args.head, args.data, args.weights):
        parser.error("measuring needs --head, --data and --weights; or --table for the record")
    torch.set_num_threads(1)
    head = DepthHead.from_pretrained(args.head)
    if head.familiarity is None or head.config.focal_length is None:
        parser.error(f"the head in {args.head} does not tell its focal length and familiarity; that is for --before")
    sets = image_sets(args.data)
    now = measured(head, args.weights, sets)
    before = about_before = None
    if args.before is not None:
        head_before = DepthHead.from_pretrained(args.before)
        before, about_before = measured(head_before, args.weights, sets), about(args.before, head_before)
    record = {
        "command": "python benchmarks/true_metres.py --head DIR --before DIR --data ../shared/data --weights FILE",
        "what": "mean AbsRel over images, share of pixels in the interval of 90 %, and familiarity, in other cameras; "
        "DeiT-Tiny (ImageNet-supervised, not CLIP), NYU labelled, 8-bit in-filled",
        "head": about(args.head, head),
        "head_before": about_before,
        "machine": f"{platform.machine()}, CPU, 1 thread, torch {torch.__version__}",
        "sets": {name: row(now[name], now[HOME], before and before[name], one.kind) for name, one in sets.items()},
    }
    write_json(args.record, record)
    print(table(record))


if __name__ == "__main__":
    main()
