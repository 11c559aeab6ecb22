"""The published code's inputs, weights and outputs, as a live tower and a checkpoint file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

CASES = ("clip_default", "clip_no_film", "siglip_default")


@dataclass(frozen=True, eq=False)
class GoldenCase:
    host: nn.Module
    published: dict[str, Tensor]  # names as in a published checkpoint, tower included
    io: dict[str, Tensor]
    output_hw: tuple[int, int]


def load_case(folder: Path, name: str) -> GoldenCase:
    with safe_open(folder / f"{name}.safetensors", framework="pt") as file:
        case = json.loads(file.metadata()["case"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118

    def part(prefix: str) -> dict[str, Tensor]:
        return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}

    tower = part("tower.")
    published = {**part("head."), **{f"clip_vision_model.vision_model.{key}": value for key, value in tower.items()}}
    return GoldenCase(_host(case, tower), published, part("io."), tuple(case["output_hw"]))


def write_checkpoint(path: Path, case: GoldenCase, *, prefix: str = "") -> Path:
    torch.save({"model": {prefix + key: value for key, value in case.published.items()}, "epoch": 3}, path)
    return path


def _host(case: dict, tower: dict[str, Tensor]) -> nn.Module:
    import transformers

    kind = {"clip": "CLIP", "siglip": "Siglip"}[case["kind"]]
    config = getattr(transformers, f"{kind}VisionConfig")(
        hidden_size=case["hidden_size"],
        intermediate_size=tower["encoder.layers.0.mlp.fc1.weight"].shape[0],
        num_hidden_layers=case["num_layers"],
        num_attention_heads=4,
        image_size=case["image_size"],
        patch_size=case["patch_size"],
    )
    host = getattr(transformers, f"{kind}VisionModel")(config).eval()
    inner = getattr(host, "vision_model", host)  # the inner model is gone since transformers 5.6
    inner.load_state_dict(tower, strict=True)
    return host
