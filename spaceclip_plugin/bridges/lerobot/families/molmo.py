"""MolmoAct2: its image processor shows each image as one crop, or as several that overlap."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn

from spaceclip_plugin._files import read_json_object
from spaceclip_plugin.bridges.lerobot.families.family import Family, Laying, Stretch, setting
from spaceclip_plugin.errors import CheckpointError, HostError

_ONE_CROP = "resize"
_FILE = "processor_config.json"
_NO_SETTINGS = ("auto_map", "processor_class", "image_processor_type")


class MolmoAct2(Family):
    """See `Family`; only of checkpoints that show each image as one crop."""

    prepares = "molmoact2_hf_model.image_processing_molmoact2"

    def laying(self, policy: nn.Module) -> Laying | None:
        """See `Family`."""
        if self.lacking(policy):
            return None
        size = self._processor(policy).size
        return Laying("stretch", (Stretch((int(size["height"]), int(size["width"]))),))

    def show(self, policy: nn.Module, key: str, image: Tensor) -> object:
        """See `Family`."""
        processor = self._processor(policy)
        photos = [
            np.clip(photo.permute(1, 2, 0).cpu().numpy() * np.float32(255), 0, 255).astype(np.uint8) for photo in image
        ]
        patches = torch.as_tensor(processor(photos, return_tensors="pt")["pixel_values"])
        patch = processor.patch_size
        return rearrange(
            patches, "b (h w) (p q c) -> b c (h p) (w q)", h=int(processor.size["height"]) // patch, p=patch, q=patch
        )

    def lacking(self, policy: nn.Module) -> str:
        """See `Family`."""
        try:
            mode = self._processor(policy).crop_mode
        except (HostError, CheckpointError, AttributeError, TypeError) as error:
            return str(error)
        if mode != _ONE_CROP:
            return f"its image processor shows each image as several crops (crop_mode {mode!r}), not as one"
        return super().lacking(policy)

    def _processor(self, policy: nn.Module) -> Any:
        """Its image processor, as LeRobot makes it of the checkpoint that the policy was made of."""
        settings: Any = read_json_object(_settings_file(str(setting(policy, "checkpoint_path"))))
        kept = {key: value for key, value in settings.get("image_processor", {}).items() if key not in _NO_SETTINGS}
        module = type(policy).__module__.replace("modeling_molmoact2", self.prepares)
        return importlib.import_module(module).MolmoAct2ImageProcessor(**kept)


def _settings_file(name: str) -> Path:
    """processor_config.json of a folder, or of a repository that is on this machine."""
    from huggingface_hub import try_to_load_from_cache

    if Path(name).is_dir():
        return Path(name) / _FILE
    try:
        found = try_to_load_from_cache(name, _FILE)
    except ValueError:  # no id of a repository
        found = None
    if not isinstance(found, str):
        raise HostError(
            f"{_FILE} of {name!r}, which says how its images are prepared, is not on this machine: hf download {name} "
            f"{_FILE}, or give a folder as checkpoint_path in its config"
        )
    return Path(found)
