"""How much nearer depth comes to the truth by alignment: true depth spoilt on purpose, and a trained head's depth.

    python benchmarks/alignment.py --nyu DIR --weights deit_tiny_timm.safetensors --head DIR
    python benchmarks/alignment.py --table      (the table of benchmarks/README.md, from the record)

Errors are mean AbsRel over images, before and after; an image whose alignment is refused counts with its error before,
and the refusals are counted. Ranges are true depths at random pixels; wrong ones are multiplied by 0.2 to 0.7 or by the
inverse of that. The head's tower is an ImageNet-supervised ViT (DeiT-Tiny), not CLIP; the depth is the 8-bit in-filled
NYU labelled set, and the head's epoch was chosen on these same images.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from spaceclip_plugin import DepthMap, attach_depth_head
from spaceclip_plugin._files import write_json
from spaceclip_plugin.data.sample import DepthSample
from spaceclip_plugin.data.sources.depth_list import DepthList
from spaceclip_plugin.depth import Plane
from spaceclip_plugin.depth.alignment import Alignment, align_to_contacts, align_to_plane, align_to_ranges
from spaceclip_plugin.depth.camera import back_project
from spaceclip_plugin.depth.image_mapping import ImageMapping
from spaceclip_plugin.errors import DataError
from spaceclip_plugin.evaluation import get_protocol, predict
from spaceclip_plugin.towers.hosts import load_host
from spaceclip_worlds.render.raycaster import render
from spaceclip_worlds.render.scene import Scene
from spaceclip_worlds.render.tabletop import random_tabletop

RECORD = Path(__file__).parent / "results" / "alignment.json"
HOST = "timm:deit_tiny_patch16_224"
VAL = "val_100.txt"
SCENES, SCENE_HW = 100, (168, 224)
LEAST_SCALE, MOST_SCALE = 0.7, 1.4
NOISE = 0.05
RANGES = ((1, 0.0), (3, 0.0), (10, 0.0), (30, 0.0), (10, 0.4), (30, 0.4))
CONTACTS = (1, 3)

Error = Callable[[DepthMap], float]


@dataclass
class Row:
    """Errors of one way of aligning, image by image."""

    before: list[float] = field(default_factory=list)
    after: list[float] = field(default_factory=list)
    scales: list[float] = field(default_factory=list)
    refused: int = 0

    def add(self, depth: DepthMap, align: Callable[[], Alignment], error: Error) -> None:
        """Align one image, or count that it is refused."""
        self.before.append(error(depth))
        try:
            alignment = align()
        except DataError:
            self.refused += 1
            self.after.append(self.before[-1])
            return
        self.scales.append(alignment.scale)
        self.after.append(error(alignment.apply(depth)))

    def summary(self) -> dict[str, float | int]:
        """Means over images, the share that got better, and refusals."""
        better = sum(after < before for before, after in zip(self.before, self.after, strict=True))
        return {
            "images": len(self.before),
            "abs_rel_before": round(statistics.fmean(self.before), 4),
            "abs_rel_after": round(statistics.fmean(self.after), 4),
            "abs_rel_after_median": round(statistics.median(self.after), 4),
            "share_better": round(better / len(self.before), 3),
            "refused": self.refused,
        }


def as_map(depth_m: Tensor) -> DepthMap:
    """Of one image (H, W), known where positive."""
    height, width = depth_m.shape
    return DepthMap(depth_m[None].float(), depth_m[None] > 0, None, 0, (height, width), True)


def spoilt(truth_m: Tensor, generator: np.random.Generator) -> DepthMap:
    """True depth of another scale, with smooth errors as heads make them."""
    coarse = torch.from_numpy(generator.standard_normal((1, 1, 5, 5)).astype(np.float32))
    noise = F.interpolate(coarse, size=tuple(truth_m.shape), mode="bicubic")[0, 0]
    scale = float(np.exp(generator.uniform(np.log(LEAST_SCALE), np.log(MOST_SCALE))))
    return as_map(truth_m * scale * (1 + NOISE * noise / noise.std()))


def some_ranges(
    truth_m: npt.NDArray[np.float32], count: int, wrong: float, generator: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """(N, 2) pixels and (N,) metres, so many of them wrong."""
    rows, columns = np.nonzero(truth_m > 0)
    chosen = generator.choice(len(rows), count, replace=False)
    known = truth_m[rows[chosen], columns[chosen]].astype(np.float64)
    spoil = round(wrong * count)
    factors = generator.uniform(0.2, 0.7, spoil)
    known[:spoil] *= np.where(generator.random(spoil) < 0.5, factors, 1 / factors)
    uv = np.stack([columns[chosen], rows[chosen]], axis=-1) + 0.5
    return torch.from_numpy(uv), torch.from_numpy(known)


def title(count: int, wrong: float) -> str:
    """What a row of ranges is called."""
    return f"{count} ranges" + (f", {wrong:.0%} wrong" if wrong else "")


def nyu_rows(samples: Sequence[DepthSample], see: Callable[[int], DepthMap]) -> dict[str, Any]:
    """Alignment to ranges of depth from anywhere, scored by the nyu-eigen protocol."""
    protocol = get_protocol("nyu-eigen")
    rows = {title(*ranges): Row() for ranges in RANGES} | {"best scale of each image (not an alignment)": Row()}
    for index, sample in enumerate(samples):
        depth, truth = see(index), sample.depth_m

        def error(aligned: DepthMap, sample: DepthSample = sample) -> float:
            return protocol.score(aligned.depth_m[0], sample).abs_rel

        for count, wrong in RANGES:
            uv, known = some_ranges(truth, count, wrong, np.random.default_rng([index, count, round(100 * wrong)]))

            def align(depth: DepthMap = depth, uv: Tensor = uv, known: Tensor = known) -> Alignment:
                return align_to_ranges(depth, uv, ranges_m=known)

            rows[title(count, wrong)].add(depth, align, error)

        def every_pixel(depth: DepthMap = depth, truth: npt.NDArray[np.float32] = truth) -> Alignment:
            known = truth > 0
            ratio = float(np.median(truth[known] / depth.depth_m[0].numpy()[known]))
            return Alignment(ratio, 0.0, int(known.sum()), 1.0, 0.0, 0.0, 0.0, 0.0)

        rows["best scale of each image (not an alignment)"].add(depth, every_pixel, error)
    return {name: row.summary() for name, row in rows.items()}


def table_plane(scene: Scene) -> Plane:
    """The top of a scene's table in the camera frame, from where camera and table are in the room."""
    top, camera = scene.primitives[0], scene.camera
    point = np.add(top.centre_m, (0.0, 0.0, top.half_extents_m[2])) - camera.position_m
    (x, y, z), (a, b, c) = (camera.rotation.T @ point).tolist(), camera.rotation[2].tolist()
    return Plane.through((x, y, z), (a, b, c))


def tabletop_rows() -> dict[str, Any]:
    """Alignment to the table and to contacts with what stands on it, of spoilt depth of rendered scenes."""
    rows = {"table plane": Row()} | {f"{count} contacts": Row() for count in CONTACTS}
    for seed in range(SCENES):
        scene = random_tabletop(np.random.default_rng([7, seed]))
        seen = render(scene, SCENE_HW, shadows=False)
        truth, generator = torch.from_numpy(seen.depth_m), np.random.default_rng([8, seed])
        depth = spoilt(truth, generator)

        def error(aligned: DepthMap, truth: Tensor = truth) -> float:
            return float(((aligned.depth_m[0] - truth).abs() / truth).mean())

        rows["table plane"].add(
            depth,
            lambda depth=depth, seen=seen, scene=scene: align_to_plane(
                depth, seen.intrinsics, plane=table_plane(scene)
            ),
            error,
        )
        near = np.argwhere(seen.primitive >= 0)
        points = back_project(truth[None], seen.intrinsics)[0]
        for count in CONTACTS:
            touched = torch.from_numpy(near[generator.choice(len(near), count, replace=False)])
            rows[f"{count} contacts"].add(
                depth,
                lambda depth=depth, seen=seen, points=points[touched[:, 0], touched[:, 1]]: align_to_contacts(
                    depth, seen.intrinsics, points_m=points
                ),
                error,
            )
    return {name: row.summary() for name, row in rows.items()}


def predictions(args: argparse.Namespace, samples: Sequence[DepthSample]) -> list[DepthMap]:
    """What the trained head says of every image, one forward each, brought back to the photo's pixels."""
    found = []
    with attach_depth_head(load_host(HOST, weights=args.weights), args.head) as attachment:
        for sample in samples:
            photo_hw = (sample.image.shape[0], sample.image.shape[1])
            depth = predict(attachment, [sample.image], output_hw=photo_hw)
            found.append(depth.in_camera(ImageMapping.stretched(photo_hw, depth.image_hw)))
    return found


def table(record: dict[str, Any]) -> str:
    """The page's: one row for every way of aligning some depth."""
    titles = {
        "nyu_spoilt_depth": "NYU, true depth spoilt",
        "tabletop_spoilt_depth": "rendered tables, true depth spoilt",
        "nyu_trained_head": "NYU, depth of a trained head",
    }
    lines = ["| depth | aligned to | AbsRel before | after | images better | refused |", "|---|---|---|---|---|---|"]
    for name, title in titles.items():
        for way, row in record[name].items():
            before, after, better = row["abs_rel_before"], row["abs_rel_after"], row["share_better"]
            refused = f"{row['refused']} of {row['images']}"
            lines.append(f"| {title} | {way} | {before:.3f} | {after:.3f} | {better:.0%} | {refused} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print, record; or print the record as a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true", help="print the record as Markdown, and measure nothing")
    parser.add_argument("--nyu", type=Path, help=f"folder with {VAL}")
    parser.add_argument("--weights", type=Path, help="DeiT-Tiny weights in timm names, safetensors")
    parser.add_argument("--head", type=Path, help="folder of a head trained on that tower")
    parser.add_argument("--record", type=Path, default=RECORD)
    args = parser.parse_args(argv)
    if args.table:
        print(table(json.loads(args.record.read_text())))
        return
    if None in (args.nyu, args.weights, args.head):
        parser.error("measuring needs --nyu, --weights and --head")
    source = DepthList(args.nyu / VAL, units_per_metre=get_protocol("nyu-eigen").depth_scale)
    samples = [source[index] for index in range(len(source))]
    head = predictions(args, samples)
    record = {
        "command": "python benchmarks/alignment.py --nyu DIR --weights deit_tiny_timm.safetensors --head DIR",
        "what": "mean AbsRel before and after alignment; a refused image counts with its error before",
        "spoilt": f"true depth times {LEAST_SCALE} to {MOST_SCALE}, with {NOISE:.0%} smooth noise",
        "head": f"{args.head.parent.name} on DeiT-Tiny (ImageNet-supervised, not CLIP), one forward; NYU labelled, "
        "8-bit in-filled; its epoch was chosen on these images",
        "machine": f"{platform.machine()}, CPU, torch {torch.__version__}",
        "nyu_spoilt_depth": nyu_rows(
            samples,
            lambda index: spoilt(torch.from_numpy(samples[index].depth_m), np.random.default_rng([6, index])),
        ),
        "tabletop_spoilt_depth": tabletop_rows(),
        "nyu_trained_head": nyu_rows(samples, lambda index: head[index]),
    }
    print(json.dumps(record, indent=2))
    write_json(args.record, record)


if __name__ == "__main__":
    main()
