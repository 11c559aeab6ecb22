"""`DepthHead`: one class for every architecture, from a tower, a folder or a published checkpoint."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spaceclip_plugin._checks import integer, shown
from spaceclip_plugin._digest import module_digest
from spaceclip_plugin.errors import CaptureError, CheckpointError, ConfigError, HeadMismatchError
from spaceclip_plugin.head import folder as head_folder
from spaceclip_plugin.head import weights
from spaceclip_plugin.head.architectures import architecture
from spaceclip_plugin.head.config import DepthHeadConfig
from spaceclip_plugin.head.decoder import HeadOutput
from spaceclip_plugin.head.model_card import CARD_NAME, PICTURE_NAME, ModelCard, Terms
from spaceclip_plugin.head.space_clip import published
from spaceclip_plugin.hub import repository
from spaceclip_plugin.towers import registry
from spaceclip_plugin.towers.spec import Tower, TowerFeatures, TowerSpec

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
        self.decoder = architecture(config.architecture).decoder(config.width, config.options, config.width_of)

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
            depth (B, H, W) in metres, in the dtype and on the device of the head. It covers the whole image: each value
            lies where the tower saw it (`TowerFeatures.seen`), and is 0 where it saw nothing.

        Raises:
            CaptureError: a tap or the context is missing, of another width, or of another batch or grid than the rest;
                or the batch is empty.
            ConfigError: an impossible output size.
        """
        output_hw = checked_size(features.image_hw if output_size is None else output_size)
        inputs = self._checked(features)
        seen = features.seen
        grid_hw = output_hw if seen is None else seen.grid_size(output_hw)
        output: HeadOutput = self.decoder(inputs, grid_hw, auxiliary=auxiliary)
        if seen is None:
            return output
        return HeadOutput(
            seen.laid_out(output.depth_m, output_hw),
            tuple(seen.laid_out(coarse_m, output_hw) for coarse_m in output.auxiliary_m),
            None if output.uncertainty_m is None else seen.laid_out(output.uncertainty_m, output_hw),
        )

    def fuse(self) -> DepthHead:
        """A copy of the head rearranged for inference: the same depth up to rounding, in fewer operations.

        It reads the same features and attaches alike. It stays in eval mode, has no auxiliary outputs and gives no
        gradients; neither it nor this head changes with the other. Fuse once the head is trained and where it will
        run: fewer operations are not faster on every device.

        Raises:
            ConfigError: the head is fused already, or its architecture has no fused form.
        """
        from spaceclip_plugin.head.fused_head import FusedDepthHead  # it is a DepthHead itself

        return FusedDepthHead(self)

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
            HostError: the host is not a module, or has no tower, or several.
            ConfigError: an unknown override or an impossible value.
        """
        if isinstance(host_or_tower, TowerSpec):
            spec = host_or_tower
        else:
            tower = host_or_tower if isinstance(host_or_tower, Tower) else registry.find_tower(host_or_tower)
            spec = tower.spec
        return cls(DepthHeadConfig.for_tower(spec, architecture=architecture, **overrides))

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
            ConfigError: taps that do not fit the number of stages or the tower, or none given where the published ones
                cannot be meant.
        """
        config, state = published.read(Path(path), semantic_taps=semantic_taps, structural_taps=structural_taps)
        return cls._from_state(config, state, source=f"{str(path)!r}, under this package's names,")

    @classmethod
    def from_pretrained(
        cls,
        repo_or_folder: str | Path,
        *,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
    ) -> DepthHead:
        """The head that `save_pretrained` or `push_to_hub` wrote, strictly: whole, as it was saved, finite.

        Nothing in the files is executed, and no weight is ever made up: what is missing, added, mis-shaped, damaged or
        swapped is refused.

        Args:
            repo_or_folder: a folder of a head or of a finished run, or the id of a Hub repository ("org/name").
            revision: branch, tag or commit of the repository; None: main.
            cache_dir: where downloads are kept; None: where huggingface_hub keeps all of them.
            token: for private repositories; None: that of `hf auth login`.
            local_files_only: ask nobody, read the cache.
            force_download: even if it is in the cache.

        Returns:
            The head on the CPU, in eval mode and in torch's default dtype, whatever dtype it was saved in.

        Raises:
            CheckpointError: a missing, truncated, damaged or foreign file, weights that do not match the config, two
                files that were not saved together, or a repository that cannot be read.
            ConfigError: an empty name, or a revision of a folder.
        """
        files = repository.locate(
            repo_or_folder,
            revision=revision,
            cache_dir=cache_dir,
            token=token,
            local_files_only=local_files_only,
            force_download=force_download,
        )
        config_file = files.config_file()
        saved = head_folder.read_config(config_file)
        try:
            config = DepthHeadConfig.from_dict(saved)
        except ConfigError as error:
            raise CheckpointError(f"{str(config_file)!r}: {error}") from error
        head = cls._without_weights(config)
        expected = head.state_dict()
        weights_file = files.weights_file(weights.check_size(expected, source=repr(str(config_file))))
        found = weights.read_weights(weights_file, expected)
        head_folder.check_pair(files.source, saved, found.config)
        return head._with_weights(found.state, source=repr(str(weights_file)))

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write config.json and model.safetensors to `folder` (made if absent); an older head there is replaced.

        Files of these names that are not a head's, such as those of another library's model, are not.

        Returns:
            The folder.

        Raises:
            CheckpointError: a weight is not finite, the folder holds another model, or it cannot be written; what it
                holds stays as it was.
        """
        return head_folder.write_folder(Path(folder), self.config.to_dict(), self.state_dict())

    def push_to_hub(
        self,
        repo: str,
        *,
        private: bool | None = None,
        create_pr: bool = False,
        commit_message: str | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
        license: str | None = None,
        data_license: str | None = None,
        datasets: Sequence[str] = (),
        record: Mapping[str, Any] | None = None,
        picture: str | Path | None = None,
    ) -> str:
        """Publish the head with a model card, in one commit; `from_pretrained(repo)` gives it back.

        Args:
            repo: "org/name"; made if absent.
            private: whether a repository that is made now is private.
            create_pr: propose the commit as a pull request.
            commit_message: None: says what is pushed.
            revision: branch to commit to; None: main.
            token: with the right to write; None: that of `hf auth login`.
            license: of the weights, as the Hub names it ("apache-2.0").
            data_license: terms of the training data, in a sentence.
            datasets: ids of the training data on the Hub.
            record: what `run.json` of the run that trained this head says; the card tells its figures.
            picture: a PNG for the card; a run leaves `validation.png`.

        Returns:
            Address of the commit, or of the pull request.

        Raises:
            ConfigError: not the id of a repository, a term that is not a line of text, or the record of another head.
            CheckpointError: a weight is not finite, or the Hub refuses.
        """
        repository.check_id(repo)
        if record is not None and record.get("head_digest") != module_digest(self):
            raise ConfigError(
                "the record is not that of this head: its head_digest is "
                f"{shown(record.get('head_digest'))}, this head's {module_digest(self)!r}; give the run.json of its run"
            )
        terms = Terms(license, data_license, tuple(datasets))
        parameters = sum(parameter.numel() for parameter in self.parameters())
        card = ModelCard(repo, self.config, parameters, terms, record, picture=picture is not None)
        with tempfile.TemporaryDirectory() as folder:
            files = {path.name: path for path in self.save_pretrained(folder).iterdir()}
            files[CARD_NAME] = Path(folder, CARD_NAME)
            files[CARD_NAME].write_text(card.text(), encoding="utf-8")
            if picture is not None:
                files[PICTURE_NAME] = Path(picture)
            return repository.push(
                repo,
                files,
                commit_message=commit_message or f"Depth head ({self.config.architecture})",
                private=private,
                create_pr=create_pr,
                revision=revision,
                token=token,
            )

    @classmethod
    def _from_state(cls, config: DepthHeadConfig, state: dict[str, Tensor], *, source: str) -> DepthHead:
        return cls._without_weights(config)._with_weights(state, source=source)

    @classmethod
    def _without_weights(cls, config: DepthHeadConfig) -> DepthHead:
        # Built on the meta device: a config that asks for gigabytes is refused before any are taken.
        with torch.device("meta"):
            return cls(config)

    def _with_weights(self, state: dict[str, Tensor], *, source: str) -> DepthHead:
        self.load_state_dict(weights.matched_state(state, self.state_dict(), source=source), assign=True)
        return self.eval()

    def _checked(self, features: TowerFeatures) -> TowerFeatures:
        """The features the decoder reads and no others, in the head's dtype and on its device."""
        parameter = next(self.parameters())
        hidden = {tap: _checked_map(features, tap, width) for tap, width in self.config.width_of.items()}
        first = self.taps[0]
        several_grids = self.config.tap_widths is not None
        for tap, value in hidden.items():
            alike = value.shape[:1] == hidden[first].shape[:1] if several_grids else value.shape == hidden[first].shape
            if not alike:
                raise CaptureError(
                    f"hidden state {tap} has shape {tuple(value.shape)}, hidden state {first} has "
                    f"{tuple(hidden[first].shape)}; a head reads maps of one batch and one grid"
                )
        context = None
        if self.uses_context:
            context = _checked_context(features, (hidden[first].shape[0], self.config.width)).to(parameter)
        moved = {tap: value.to(parameter) for tap, value in hidden.items()}
        return dataclasses.replace(features, hidden=moved, context=context)


def checked_size(size: object) -> tuple[int, int]:
    """`size` as (height, width) in pixels, of any integer type; ConfigError for anything else or over 16384 a side."""
    if isinstance(size, (tuple, list)) and len(size) == 2:
        with contextlib.suppress(ConfigError):  # the error below shows both sides
            height, width = (integer("a side of output_size", side, 1, MAX_OUTPUT_SIDE) for side in size)
            return height, width
    raise ConfigError(
        f"output_size must be (height, width) in pixels, each from 1 to {MAX_OUTPUT_SIDE}, got {shown(size)}"
    )


def _checked_map(features: TowerFeatures, tap: int, width: int) -> Tensor:
    if tap not in features.hidden:
        raise CaptureError(f"the head reads hidden state {tap}, the features hold {sorted(features.hidden)}")
    patch_map = features.hidden[tap]
    if patch_map.ndim != 4 or patch_map.shape[1] != width or 0 in patch_map.shape:
        raise CaptureError(
            f"hidden state {tap} must be a non-empty map (B, {width}, h, w), got shape {tuple(patch_map.shape)}"
        )
    return patch_map


def _checked_context(features: TowerFeatures, shape: tuple[int, int]) -> Tensor:
    if features.context is None:
        raise CaptureError("the head reads the tower's context (FiLM), but the features hold none")
    # FiLM broadcasts: a context of another batch would pass unnoticed and modulate the wrong images.
    if tuple(features.context.shape) != shape:
        raise CaptureError(
            f"the context must have shape {shape}, one vector per image, got {tuple(features.context.shape)}"
        )
    return features.context
