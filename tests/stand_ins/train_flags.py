"""Every flag of `spaceclip train` with the setting that it changes, and the parser of them."""

from __future__ import annotations

import argparse
from pathlib import Path

from spaceclip_plugin.cli import train
from spaceclip_plugin.data.sources.depth_list import ListData
from spaceclip_plugin.data.sources.image_folder import FolderData
from spaceclip_plugin.training.config.run_config import HeadChoice, WeightedSource
from spaceclip_worlds.render.tabletop import SceneData


def arguments_of(*argv: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    train.add_arguments(parser)
    return parser.parse_args(argv)


def listed(*paths: str) -> tuple[WeightedSource, ...]:
    return tuple(WeightedSource(ListData(path)) for path in paths)


RECIPE_FLAGS = [
    ("--epochs", "epochs", 3),
    ("--batch-size", "batch_size", 5),
    ("--accumulation", "accumulation", 2),
    ("--lr", "learning_rate", 0.25),
    ("--weight-decay", "weight_decay", 0.0),
    ("--ema-decay", "ema_decay", 0.5),
    ("--loss", "loss", "relative"),
    ("--loss", "loss", "published"),
    ("--augmentation", "augmentation", "published-kitti"),
    ("--views", "views", 1),
    ("--features", "cache", "int8"),
    ("--features", "cache", "none"),
    ("--target-side", "target_side", 200),
    ("--precision", "precision", "bf16"),
    ("--tower-precision", "tower_precision", "bf16"),
    ("--seed", "seed", 9),
]
RUN_FLAGS = [
    (["--host", "timm:y"], "host", "timm:y"),
    (["--host-weights", "w.safetensors"], "host_weights", Path("w.safetensors")),
    (["--host-weights", "random"], "host_weights", "random"),
    (["--host-weights", "./random"], "host_weights", Path("random")),
    (["--image-size", "192,256"], "image_hw", (192, 256)),
    (["--image-mean", "0.1,0.2,0.3"], "image_mean", (0.1, 0.2, 0.3)),
    (["--image-std", "0.4,0.5,0.6"], "image_std", (0.4, 0.5, 0.6)),
    (["--preparation", "letterbox:bottom-right"], "preparation", "letterbox:bottom-right"),
    (["--tower", "a.b"], "tower", "a.b"),
    (["--tower", ""], "tower", ""),
    (["--adapter", "clip"], "adapter", "clip"),
    (["--device", "cuda:3"], "device", "cuda:3"),
    (["--protocol", "kitti-garg"], "protocol", "kitti-garg"),
    (["--focal-length", "0.75,1"], "focal_length", (0.75, 1.0)),
    (["--depth-range", "0.1,2"], "depth_range_m", (0.1, 2.0)),
    (["--units-per-metre", "5000"], "units_per_metre", 5000.0),
    (["--data", "x"], "data", listed("x")),
    (["--data", "x", "--data", "folder:y"], "data", (*listed("x"), WeightedSource(FolderData("y")))),
    (["--val", "x", "--val", "list:y"], "validation", listed("x", "y")),
    (["--test", "test.txt", "--test", "scenes:3"], "test", (*listed("test.txt"), WeightedSource(SceneData(3)))),
    (["--teacher", "hf:org/teacher"], "teacher", "hf:org/teacher"),
    (["--skip-bad"], "skip_bad", True),
    (["--workers", "3"], "workers", 3),
    (["--save-every", "7"], "save_every", 7),
    (["--cache", "features"], "cache", Path("features")),
    (["--log-with", "wandb"], "log_with", "wandb"),
    (["--select-on-test"], "select_on_test", True),
    (["--arch", "space-clip"], "head", HeadChoice("space-clip")),
    (["--preset", "standard"], "head", HeadChoice("tap-mixer")),
]
