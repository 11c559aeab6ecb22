"""What a robot's knowledge is worth to a trained head's depth: `ScaleFilter` beside full trust and the best scale.

    python benchmarks/scale_filter.py --nyu DIR --cameras DIR --weights deit_tiny_timm.safetensors --head DIR
    python benchmarks/scale_filter.py --table      (the table of benchmarks/README.md, from the record)

Mean AbsRel over images, never aligned otherwise. Ranges are true depths at random pixels; wrong ones are multiplied by
0.2 to 0.7 or by the inverse. The data tell no plane: "its plane" is the largest in the *true* depth (RANSAC, 2 %), with
its pixels as mask, where it holds a fifth of the pixels with depth; other images of the set do not count there.
NYU is the head's own camera, and each image a scene of its own; of the other sets none was trained on. The filter
starts at its own prior, which the head's familiarity with each image widens: give a head that tells it.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from alignment import VAL, predictions, some_ranges, title
from torch import Tensor

from spaceclip_plugin._files import write_json
from spaceclip_plugin.data.sample import DepthSample
from spaceclip_plugin.data.sources.depth_list import DepthList
from spaceclip_plugin.data.sources.image_folder import ImageFolder
from spaceclip_plugin.depth import DepthMap, Plane, PlaneSeen, Ranges, ScaleFilter, align_to_ranges
from spaceclip_plugin.depth.camera import back_project
from spaceclip_plugin.depth.scale_evidence import Evidence
from spaceclip_plugin.errors import DataError
from spaceclip_plugin.evaluation import Protocol, get_protocol

RECORD = Path(__file__).parent / "results" / "scale_filter.json"
AT_HOME = ((1, 0.0), (3, 0.0), (10, 0.0), (30, 0.0), (10, 0.4), (30, 0.4))
DEPTHS_M = (0.1, 10.0)
PLANE_SHARE, PLANE_TOLERANCE, PLANE_TRIES = 0.2, 0.02, 300

Truth = npt.NDArray[np.float32]


def counted(sample: DepthSample) -> npt.NDArray[np.bool_]:
    """Pixels with true depth in range."""
    known: npt.NDArray[np.bool_] = (sample.depth_m > DEPTHS_M[0]) & (sample.depth_m < DEPTHS_M[1])
    return known


def abs_rel(depth_m: Tensor, sample: DepthSample) -> float:
    """Mean relative error where the truth is known."""
    known = counted(sample)
    return float(np.mean(np.abs(depth_m.numpy()[known] / sample.depth_m[known] - 1)))


def largest_plane(sample: DepthSample, seed: int) -> tuple[Plane, Tensor] | None:
    """The plane that most true depth lies on, and its pixels; None where that is too little."""
    assert sample.intrinsics is not None
    known = counted(sample)
    points = back_project(torch.from_numpy(sample.depth_m)[None], sample.intrinsics)[0].double().numpy()
    some = points[known]
    generator = np.random.default_rng(seed)
    some = some[generator.choice(len(some), min(len(some), 4000), replace=False)]

    def on_plane(normal: npt.NDArray[np.float64], distance: float, where: Any) -> Any:
        return np.abs(where @ normal - distance) < PLANE_TOLERANCE * where[..., 2]

    best, most = None, 0
    for _ in range(PLANE_TRIES):
        first, second, third = some[generator.choice(len(some), 3, replace=False)]
        normal = np.cross(second - first, third - first)
        if (length := float(np.linalg.norm(normal))) < 1e-9:
            continue
        normal = normal / length
        distance = float(normal @ first)
        if (count := int(on_plane(normal, distance, some).sum())) > most:
            best, most = (normal, distance), count
    if best is None or most < PLANE_SHARE * len(some):
        return None
    mask = known & on_plane(*best, points)
    x, y, z = best[0].tolist()
    return Plane((x, y, z), best[1]), torch.from_numpy(mask)


def rows_of(
    samples: Sequence[DepthSample], depths: Sequence[DepthMap], ways: dict[str, list[Evidence | None]]
) -> dict[str, Any]:
    """Errors of every way of knowing something, a new filter for every image, and one for all in their order."""
    rows = {}
    for way, evidence in ways.items():
        running, found, refused = ScaleFilter(), defaultdict(list), 0
        for sample, depth, known in zip(samples, depths, evidence, strict=True):
            if known is None:
                continue
            true = counted(sample)
            best = float(np.median(sample.depth_m[true]) / np.median(depth.depth_m[0].numpy()[true]))
            alone = ScaleFilter()
            refused += not alone.observe(depth, known).used
            running.observe(depth, known)
            maps = {
                "as_read": depth.depth_m,
                "scale_only": alone.apply(depth, near_evidence=False).depth_m,
                "filter": alone.apply(depth).depth_m,
                "running": running.apply(depth).depth_m,
                "best_scale": depth.depth_m * best,
                "trusted": trusted(depth, known),
            }
            for name, depth_m in maps.items():
                found[name].append(abs_rel(depth_m[0], sample))
        if found:
            better = statistics.fmean(a < b for a, b in zip(found["filter"], found["as_read"], strict=True))
            means = {name: round(statistics.fmean(errors), 4) for name, errors in found.items()}
            rows[way] = {"images": len(found["as_read"]), **means, "better": round(better, 3), "refused": refused}
    return rows


def trusted(depth: DepthMap, known: Evidence) -> Tensor:
    """The depth aligned to ranges as if they told all; as it was where that is refused, and for planes."""
    if not isinstance(known, Ranges):
        return depth.depth_m
    try:
        return align_to_ranges(depth, known.pixels_uv, ranges_m=known.ranges_m).apply(depth).depth_m
    except DataError:
        return depth.depth_m


def ranges_of(samples: Sequence[DepthSample], count: int, wrong: float) -> list[Evidence | None]:
    """True depth at random pixels of every image, so much of it wrong."""
    return [
        Ranges(*some_ranges(sample.depth_m * counted(sample), count, wrong, np.random.default_rng([index, count])))
        for index, sample in enumerate(samples)
    ]


def planes_of(samples: Sequence[DepthSample]) -> list[Evidence | None]:
    """The largest plane of every image, where one is large enough."""
    found = [largest_plane(sample, index) for index, sample in enumerate(samples)]
    return [None if one is None else PlaneSeen(*one) for one in found]


def table(record: dict[str, Any]) -> str:
    """The page's: one row for every set of images and every kind of evidence."""
    lines = [
        "| images | known of each | as read | fully trusted | scale only | filter | filter kept from image to image | "
        "best scale of each image | better | refused |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, rows in record["sets"].items():
        for way, row in rows.items():
            home, plane = name == "NYU validation", way == "its plane"
            cells = [
                f"{name}, {row['images']}",
                way,
                f"{row['as_read']:.3f}",
                "–" if plane else f"{row['trusted']:.3f}",
                f"{row['scale_only']:.3f}",
                f"{row['filter']:.3f}",
                "–" if home else f"{row['running']:.3f}",
                f"{row['best_scale']:.3f}",
                f"{row['better']:.0%}",
                str(row["refused"]),
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print, record; or print the record as a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true", help="print the record as Markdown, and measure nothing")
    parser.add_argument("--nyu", type=Path, help=f"folder with {VAL}")
    parser.add_argument("--cameras", type=Path, help="folder of folders as --data folder: reads them")
    parser.add_argument("--weights", type=Path, help="DeiT-Tiny weights in timm names, safetensors")
    parser.add_argument("--head", type=Path, help="folder of a head trained on that tower")
    parser.add_argument("--record", type=Path, default=RECORD)
    args = parser.parse_args(argv)
    if args.table:
        print(table(json.loads(args.record.read_text())))
        return
    if None in (args.nyu, args.cameras, args.weights, args.head):
        parser.error("measuring needs --nyu, --cameras, --weights and --head")
    protocol = get_protocol("nyu-eigen-inner")
    source = DepthList(args.nyu / VAL, units_per_metre=protocol.depth_scale)
    sets: dict[str, Sequence[DepthSample]] = {
        "NYU validation": [inner(source[i], protocol) for i in range(len(source))]
    }
    for folder in sorted(path.parent for path in args.cameras.glob("*/rgb")):
        images = ImageFolder(folder, units_per_metre=1000.0)
        sets[folder.name] = [images[index] for index in range(len(images))]
    results = {}
    for name, samples in sets.items():
        depths = [
            dataclasses.replace(depth, camera=name, step=index, frame=index)
            if sample.intrinsics is None
            else dataclasses.replace(depth.with_intrinsics(sample.intrinsics), camera=name, step=index, frame=index)
            for index, (sample, depth) in enumerate(zip(samples, predictions(args, samples), strict=True))
        ]
        if name == "NYU validation":
            ways = {title(*known): ranges_of(samples, *known) for known in AT_HOME}
        else:
            ways = {"5 ranges": ranges_of(samples, 5, 0.0), "its plane": planes_of(samples)}
        results[name] = rows_of(samples, depths, ways)
        print(name, json.dumps(results[name], indent=2))
    record = {
        "command": "python benchmarks/scale_filter.py --nyu DIR --cameras DIR --weights deit_tiny_timm.safetensors "
        "--head DIR",
        "what": f"mean AbsRel of depth from {DEPTHS_M[0]} to {DEPTHS_M[1]} m; refused: images whose evidence is",
        "head": "default head on DeiT-Tiny (ImageNet-supervised, not CLIP), 20 epochs under nyu-eigen-inner, one "
        "forward; NYU, 8-bit in-filled; its epoch was chosen on these NYU images",
        "prior_sd": ScaleFilter().prior_sd,
        "machine": f"{platform.machine()}, CPU, torch {torch.__version__}",
        "sets": results,
    }
    write_json(args.record, record)


def inner(sample: DepthSample, protocol: Protocol) -> DepthSample:
    """What a host sees of a NYU photo, without its white frame, that knows no depth outside Eigen's region."""
    height, width = sample.depth_m.shape
    top, left, rows, columns = protocol.crop_box((height, width))
    seen = (slice(top, top + rows), slice(left, left + columns))
    depth_m = sample.depth_m * protocol.mask((height, width)).numpy()
    return dataclasses.replace(
        sample,
        image=np.ascontiguousarray(sample.image[seen]),
        depth_m=depth_m[seen],
        intrinsics=protocol.input_intrinsics(sample),
    )


if __name__ == "__main__":
    main()
