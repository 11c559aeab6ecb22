"""What teaching costs: seconds of a teacher for one photo, which it looks at twice, and bytes on the disk.

    python benchmarks/teacher_cost.py --out benchmarks/results/teacher_cost.json

Depth Anything at its Small size with random weights, on photos of noise: only the time means anything.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from spaceclip_adapters.teachers import load_hf_teacher
from spaceclip_plugin.data import DepthSample
from spaceclip_plugin.teaching.views import look

SIDES = (224, 518)
PHOTO_HW = (480, 640)


def saved(folder: Path, side: int) -> Path:
    """A teacher of Depth Anything's Small size, for photos of that shorter side."""
    backbone = transformers.Dinov2Config(
        hidden_size=384, num_attention_heads=6, image_size=518, out_indices=[9, 10, 11, 12], reshape_hidden_states=False
    )
    config = transformers.DepthAnythingConfig(
        backbone_config=backbone, depth_estimation_type="metric", max_depth=20, head_hidden_size=32
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformers.DepthAnythingForDepthEstimation(config).save_pretrained(folder)
    processor = transformers.DPTImageProcessor(
        size={"height": side, "width": side}, keep_aspect_ratio=True, ensure_multiple_of=14
    )
    processor.save_pretrained(folder)
    return folder


def measured(side: int, *, device: torch.device, repeats: int) -> dict[str, Any]:
    """Seconds a photo, the first of which warms up and does not count."""
    photo = np.random.default_rng(0).integers(0, 256, (*PHOTO_HW, 3), dtype=np.uint8)
    sample = DepthSample(photo, np.zeros(PHOTO_HW, np.float32), "noise")
    with tempfile.TemporaryDirectory() as folder:
        teacher = load_hf_teacher(str(saved(Path(folder), side)), device=device)
    seconds = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        lesson = look(teacher, sample)  # on the CPU when it is done
        seconds.append(time.perf_counter() - started)
    low, middle, high = statistics.quantiles(seconds[1:], n=4)
    return {
        "side": side,
        "parameters": sum(parameter.numel() for parameter in teacher.model.parameters()),
        "seconds": [round(value, 4) for value in (low, middle, high)],
        "bytes": int(lesson.depth.nbytes + lesson.doubt.nbytes),
    }


def main() -> None:
    """Measure, print, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = [measured(side, device=torch.device(args.device), repeats=args.repeats) for side in SIDES]
    for row in rows:
        low, middle, high = row["seconds"]
        print(f"shorter side {row['side']}: {middle:.3f} s a photo ({low:.3f} to {high:.3f}), {row['bytes']} bytes")
    record = {
        "teacher": "DepthAnythingForDepthEstimation, Small, random weights",
        "photo_hw": list(PHOTO_HW),
        "device": args.device,
        "threads": args.threads,
        "machine": platform.machine(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "rows": rows,
    }
    if args.out is not None:
        args.out.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
