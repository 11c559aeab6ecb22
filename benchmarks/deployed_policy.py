"""What `deployed.py` measures with: a policy that pads its images, towers and teachers of size, and photos of noise."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import teacher_cost
import timm
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

KEY = "observation.images.front"
PHOTO_HW = (480, 640)
SIDE = 224
TEACHER_SIDE = 518


class SmolVLAPolicy(nn.Module):
    """A DeiT-Tiny whose images lie as SmolVLA's do; of that name, by which policies of LeRobot are known.

    Actions are of no interest here: it looks at its camera at every step.
    """

    def __init__(self, weights: Path) -> None:
        super().__init__()
        self.eye = timm.create_model("deit_tiny_patch16_224", pretrained=False, num_classes=1000).eval()
        self.eye.load_state_dict(load_file(weights))
        self.requires_grad_(False)
        features = {KEY: SimpleNamespace(shape=(3, *PHOTO_HW))}
        self.config = SimpleNamespace(image_features=features, resize_imgs_with_padding=[SIDE, SIDE], empty_cameras=0)

    def prepare_images(self, batch: dict[str, Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Images in [0, 1], normalised and fitted into the tower's; the rest, on the left and on the top, is 0."""
        image = batch[KEY]
        ratio = max(image.shape[2] / SIDE, image.shape[3] / SIDE)
        height, width = int(image.shape[2] / ratio), int(image.shape[3] / ratio)
        mean, std = (torch.tensor(self.eye.pretrained_cfg[name])[:, None, None] for name in ("mean", "std"))
        fitted = functional.interpolate((image - mean) / std, (height, width), mode="bilinear", align_corners=False)
        padded = functional.pad(fitted, (SIDE - width, 0, SIDE - height, 0))
        return [padded], [torch.ones(len(image), dtype=torch.bool)]

    @torch.no_grad()
    def select_action(self, batch: dict[str, Tensor]) -> Tensor:
        """One look."""
        found: Tensor = self.eye(self.prepare_images(batch)[0][0])
        return found


def smolvla_sized() -> nn.Module:
    """A SigLIP of the size of SmolVLA's tower: 512 px in patches of 16, 12 blocks 768 wide; random weights."""
    config = transformers.SiglipVisionConfig(
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
        image_size=512,
        patch_size=16,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return transformers.SiglipVisionModel(config).eval().requires_grad_(False)


def saved_tower(folder: Path) -> Path:
    """That tower, as `--host hf:` takes it."""
    tower: Any = smolvla_sized()
    tower.save_pretrained(folder)
    processor = transformers.SiglipImageProcessor(size={"height": 512, "width": 512})
    processor.save_pretrained(folder)
    return folder


def saved_teacher(folder: Path) -> Path:
    """A teacher of Depth Anything's Small size for photos whose shorter side is 518."""
    return teacher_cost.saved(folder, TEACHER_SIDE)


def lay_photos(root: Path, count: int) -> None:
    """Photos of smooth noise, as `folder:` takes them for a teacher."""
    generator = np.random.default_rng(0)
    for number in range(count):
        _save(root / "rgb" / f"{number:05d}.jpg", photo_and_depth(generator)[0])


def lay_pairs(root: Path, count: int, *, seed: int = 1) -> None:
    """Such photos with depth beside them."""
    generator = np.random.default_rng(seed)
    for number in range(count):
        photo, depth_m = photo_and_depth(generator)
        _save(root / "rgb" / f"{number:05d}.jpg", photo)
        _save(root / "depth" / f"{number:05d}.png", (1000 * depth_m).astype(np.uint16))


def _save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **({"quality": 95} if path.suffix == ".jpg" else {}))


def photo_and_depth(generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(H, W, 3) uint8 and (H, W) float32 metres, smooth as photos are."""
    coarse = generator.integers(0, 256, (12, 16, 3), np.uint8)
    photo = np.asarray(Image.fromarray(coarse).resize(PHOTO_HW[::-1], Image.Resampling.BICUBIC))
    depth_m = 0.5 + 4 * photo[..., 0].astype(np.float32) / 255
    return photo, depth_m


def record_videos(root: Path, frames: int) -> None:
    """A LeRobot data set of one camera whose photos are videos, in two episodes."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    names = ["height", "width", "channels"]
    features = {
        KEY: {"dtype": "video", "shape": (*PHOTO_HW, 3), "names": names},
        "action": {"dtype": "float32", "shape": (2,), "names": ["speed", "turn"]},
    }
    written = LeRobotDataset.create("lab/kitchen", fps=10, root=root, features=features, use_videos=True)
    generator = np.random.default_rng(0)
    for number in range(frames):
        photo, _ = photo_and_depth(generator)
        written.add_frame({KEY: photo, "action": np.zeros(2, np.float32), "task": "drive"})
        if number in (frames // 2 - 1, frames - 1):
            written.save_episode(parallel_encoding=False)
    written.finalize()
