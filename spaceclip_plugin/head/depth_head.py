"""`DepthHead`: one class for every architecture, from a tower, a folder or a published checkpoint."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import nn

from spaceclip_plugin import checkpoint_import, hub, registry
from spaceclip_plugin.errors import CaptureError, CheckpointError, ConfigError, HeadMismatchError
from spaceclip_plugin.head.architectures import architecture
from spaceclip_plugin.head.config import DepthHeadConfig
from spaceclip_plugin.head.decoder import HeadOutput
from spaceclip_plugin.tower import Tower, TowerFeatures, TowerSpec

MAX_OUTPUT_SIDE = 16384


class DepthHead(nn.Module):
    """Decodes metric depth from the hidden states of a frozen vision tower.

    Build one with `for_tower`, `from_pretrained` or `from_spaceclip_checkpoint`, or from a config.
    A fresh head has random weights: `trained` is False until a trainer or an importer says otherwise.

    Attributes:
        config: what the head is; replaced, never edited.
        decoder: the architecture's module.
    """

    def __init__(self, config: DepthHeadConfig) -> None:
        super().__init__()
        self.config = config
        self.decoder = architecture(config.architecture).decoder(config.width, config.options)

    @property
    def taps(self) -> tuple[int, ...]:
        """Hidden states the head reads, ascending (0 is the input of the tower's first block)."""
        return self.config.options.taps

    @property
    def uses_context(self) -> bool:
        """Whether the head reads the tower's global vector."""
        return self.config.options.uses_context

    @property
    def trained(self) -> bool:
        """Whether the weights come from training; if not, the depth means nothing."""
        return self.config.trained_on is not None

    def forward(
        self, features: TowerFeatures, output_size: tuple[int, int] | None = None, *, auxiliary: bool = False
    ) -> HeadOutput:
        """Decode one image call.

        Args:
            features: patch maps (B, C, h, w) for every tap, and the context (B, C) if the head reads it.
            output_size: (H, W) of the depth; the size of the image the tower saw if None.
            auxiliary: also return the coarser predictions used in training, where the architecture has them.

        Returns:
            depth (B, H, W) in metres, in the dtype and on the device of the head.

        Raises:
            CaptureError: a tap or the context is missing, the batch is empty, or a tap has another width.
            ConfigError: an impossible output size.
        """
        output_hw = features.image_hw if output_size is None else _checked_size(output_size)
        parameter = next(self.parameters())
        hidden = {tap: _checked_map(features, tap, self.config.width).to(parameter) for tap in self.taps}
        context = features.context
        if self.uses_context:
            if context is None:
                raise CaptureError("the head reads the tower's context (FiLM), but the features hold none")
            context = context.to(parameter)
        inputs = dataclasses.replace(features, hidden=hidden, context=context)
        output: HeadOutput = self.decoder(inputs, output_hw, auxiliary=auxiliary)
        return output

    def check_fits(self, spec: TowerSpec) -> None:
        """Raise HeadMismatchError, naming both sides, if the head does not fit that tower."""
        found = self.config.mismatches(spec)
        if found:
            made_for = f" (made for {self.config.base_model})" if self.config.base_model else ""
            raise HeadMismatchError(
                f"the head{made_for} does not fit the {spec}: {'; '.join(found)}. "
                "Pick the tower it was trained on, or make one with DepthHead.for_tower(host) and train it."
            )

    @classmethod
    def for_tower(
        cls, host_or_tower: nn.Module | Tower | TowerSpec, *, architecture: str | None = None, **overrides: Any
    ) -> DepthHead:
        """A fresh head sized for a tower, taps scaled to its depth.

        Args:
            host_or_tower: a host with one vision tower, a tower found in one, or a tower's spec.
            architecture: a name in `ARCHITECTURES`; the default architecture if None.
            overrides: fields of `DepthHeadConfig` or of the architecture's options.

        Raises:
            HostError: the host has no tower, or several.
            ConfigError: an unknown override or an impossible value.
        """
        if isinstance(host_or_tower, nn.Module):
            spec = registry.choose_tower(host_or_tower).spec
        else:
            spec = host_or_tower.spec if isinstance(host_or_tower, Tower) else host_or_tower
        return cls(DepthHeadConfig.for_tower(spec, architecture_name=architecture, **overrides))

    @classmethod
    def from_spaceclip_checkpoint(
        cls,
        path: str | Path,
        *,
        semantic_taps: tuple[int, ...] | None = None,
        structural_taps: tuple[int, ...] | None = None,
    ) -> DepthHead:
        """The head in a checkpoint of the published SPACE-CLIP code (`torch.save({"model": …})`).

        The tower's own weights in the file are ignored. Sizes are read off the shapes; the taps, which shapes do not
        tell, default to the published ones.

        Raises:
            CheckpointError: not such a checkpoint, or one with missing, unknown or mis-shaped weights.
            ConfigError: taps that do not fit the number of stages.
        """
        config, state = checkpoint_import.read(Path(path), semantic_taps=semantic_taps, structural_taps=structural_taps)
        return cls._from_state(config, state, source=str(path))

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> DepthHead:
        """The head that `save_pretrained` wrote, strictly: every weight present, of the right shape, finite.

        Raises:
            CheckpointError: a missing, truncated or foreign file, or weights that do not match the config.
        """
        values, state = hub.read_folder(Path(folder))
        try:
            config = DepthHeadConfig.from_dict(values)
        except ConfigError as error:
            raise CheckpointError(f"{Path(folder) / hub.CONFIG_NAME}: {error}") from error
        return cls._from_state(config, state, source=str(Path(folder) / hub.WEIGHTS_NAME))

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write config.json and model.safetensors to `folder` (made if absent), each whole or not at all."""
        return hub.write_folder(Path(folder), self.config.to_dict(), self.state_dict())

    @classmethod
    def _from_state(cls, config: DepthHeadConfig, state: dict[str, torch.Tensor], *, source: str) -> DepthHead:
        # Shapes are compared on the meta device: a config that asks for gigabytes is refused before any are taken.
        with torch.device("meta"):
            head = cls(config)
        expected = head.state_dict()
        hub.check_state(state, expected, source=source)
        head.load_state_dict({name: value.to(expected[name].dtype) for name, value in state.items()}, assign=True)
        return head.eval()


def _checked_size(size: tuple[int, int]) -> tuple[int, int]:
    if len(size) != 2 or not all(isinstance(side, int) and 1 <= side <= MAX_OUTPUT_SIDE for side in size):
        raise ConfigError(f"output_size must be (height, width), each from 1 to {MAX_OUTPUT_SIDE}, got {size!r}")
    return (size[0], size[1])


def _checked_map(features: TowerFeatures, tap: int, width: int) -> torch.Tensor:
    if tap not in features.hidden:
        raise CaptureError(f"the head reads hidden state {tap}, the features hold {sorted(features.hidden)}")
    patch_map = features.hidden[tap]
    if patch_map.ndim != 4 or patch_map.shape[1] != width or 0 in patch_map.shape:
        raise CaptureError(
            f"hidden state {tap} must be a non-empty map (B, {width}, h, w), got shape {tuple(patch_map.shape)}"
        )
    return patch_map
