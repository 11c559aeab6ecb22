"""`DepthHead`: one class for every architecture, from a tower, a folder or a published checkpoint."""

from __future__ import annotations

import copy
import functools
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import Self

from spaceclip_plugin._checks import shown, size_hw
from spaceclip_plugin._digest import module_digest
from spaceclip_plugin.errors import CheckpointError, ConfigError, HeadMismatchError
from spaceclip_plugin.head import folder as head_folder
from spaceclip_plugin.head import weights
from spaceclip_plugin.head.architectures import architecture
from spaceclip_plugin.head.checked_features import checked_features
from spaceclip_plugin.head.config import DepthHeadConfig
from spaceclip_plugin.head.decoder import STANDARD, DecoderOptions, HeadOutput
from spaceclip_plugin.head.familiarity import Familiarity
from spaceclip_plugin.head.model_card import CARD_NAME, PICTURE_NAME, CardDetails, ModelCard
from spaceclip_plugin.head.space_clip import published
from spaceclip_plugin.hub import HubOptions, PushOptions, push_files
from spaceclip_plugin.hub.client import check_repository_id
from spaceclip_plugin.towers import Tower, TowerFeatures, TowerSpec, registry

MAX_OUTPUT_SIDE = 16384


class DepthHead(nn.Module):
    """Decodes metric depth from the hidden states of a frozen vision tower.

    Build one with `for_tower`, `from_pretrained` or `from_spaceclip_checkpoint`, or from a config.
    A fresh head has random weights: `trained` is False until a trainer or an importer says otherwise.

    Attributes:
        config: what the head is; replaced, never edited.
        decoder: the architecture's module.
        familiarity: what it knows the images it was trained on by; None where it was not learnt.
        fused: whether this is what `fuse` gives: for inference alone.

    Example:
        >>> from spaceclip_plugin.towers import TowerFeatures
        >>> options = {"taps": (1, 2), "channels": (8,), "convolutions": (1,)}
        >>> head = DepthHead(DepthHeadConfig("tap-mixer", options, width=16, blocks=2)).eval()
        >>> maps, image = {1: torch.zeros(1, 16, 4, 6), 2: torch.zeros(1, 16, 4, 6)}, torch.zeros(1, 3, 32, 48)
        >>> features = TowerFeatures(maps, context=None, image_hw=(32, 48), pixels=image)
        >>> head(features).depth_m.shape, head.trained
        (torch.Size([1, 32, 48]), False)
    """

    fused = False

    def __init__(self, config: DepthHeadConfig) -> None:
        super().__init__()
        self.config = config
        self.decoder = architecture(config.architecture).decoder(config.width, config.options, config.width_of)
        known = config.familiarity
        self.familiarity = None if known is None else Familiarity(known, config.width_of[known.tap])

    @property
    def taps(self) -> tuple[int, ...]:
        """Hidden states the head reads, ascending (0 is the input of the tower's first block)."""
        return self.config.options.taps

    @property
    def uses_context(self) -> bool:
        """Whether the head reads the tower's global vector."""
        return self.config.options.uses_context

    @property
    def uses_pixels(self) -> bool:
        """Whether the head reads the images that the tower was given, beside its hidden states."""
        return self.config.options.pixels_per_patch > 0

    @property
    def trained(self) -> bool:
        """Whether the weights come from training; if not, the depth means nothing."""
        return self.config.trained_on is not None

    def forward(
        self, features: TowerFeatures, output_size: tuple[int, int] | None = None, *, auxiliary: bool = False
    ) -> HeadOutput:
        """Decode one image call.

        Args:
            features: patch maps (B, C, h, w) for every tap, and if the head reads them the context (B, C) and the
                images (B, 3, H, W).
            output_size: (H, W) of the depth; the size of the image the tower saw if None.
            auxiliary: also return the coarser predictions used in training, where the architecture has them.

        Returns:
            depth (B, H, W) in metres, in the dtype and on the device of the head. It covers the whole image: each value
            lies where the tower saw it (`TowerFeatures.seen`), and is 0 where it saw nothing.

        Raises:
            CaptureError: a tap or the context is missing, of another width, or of another batch or grid than the rest;
                or the batch is empty.
            ConfigError: an impossible output size, or auxiliary outputs of a fused head, which has none.
        """
        output_hw = checked_size(features.image_hw if output_size is None else output_size)
        if not self.fused:
            return self._decoded(features, output_hw, auxiliary=auxiliary)
        if auxiliary:
            raise ConfigError("a fused head has no auxiliary outputs; ask the head it was made from for them")
        with torch.no_grad(), torch.autocast(next(self.parameters()).device.type, enabled=False):
            return self._decoded(features, output_hw, auxiliary=False)

    def _decoded(self, features: TowerFeatures, output_hw: tuple[int, int], *, auxiliary: bool) -> HeadOutput:
        inputs = checked_features(features, self.config, like=next(self.parameters()))
        seen = features.seen
        grid_hw = output_hw if seen is None else seen.grid_size(output_hw)
        output: HeadOutput = self.decoder(inputs, grid_hw, auxiliary=auxiliary)
        return output if seen is None else output.changed(lambda values: seen.laid_out(values, output_hw))

    def familiarity_of(self, features: TowerFeatures, *, shown: Tensor | None = None) -> Tensor | None:
        """How familiar the images of a call are, see `DepthMap.familiarity`; None where the head cannot tell.

        Args:
            features: as for `forward`.
            shown: (h, w) bool, False where a patch shows padding of the host's; None: all show something.

        Returns:
            (B,) float32 in [0, 1], on the head's device.
        """
        if self.familiarity is None:
            return None
        device = next(self.parameters()).device
        counted = features.valid
        if shown is not None:
            shown = shown.to(device)
            counted = shown if counted is None else counted.to(device) & shown
        found: Tensor = self.familiarity(features.hidden[self.familiarity.options.tap].to(device), counted)
        return found

    @torch.no_grad()
    def learn_familiarity(self, tokens: Tensor) -> None:
        """Learn what the training images look like, in place of what the head knew of that.

        Args:
            tokens: (N, V, C) float, mean tokens of hidden state `familiar_tap` of N images in V versions, the first as
                photographed.

        Raises:
            ConfigError: fewer images than `LEAST_IMAGES`, or tokens of another width, or that are not finite.
        """
        if tokens.shape[-1] != (width := self.config.width_of[self.familiar_tap]):
            raise ConfigError(f"hidden state {self.familiar_tap} has {width} channels, got {tokens.shape[-1]}")
        known = Familiarity.learnt(tokens, tap=self.familiar_tap)
        self.familiarity = known.to(next(self.parameters()).device)
        self.config = replace(self.config, familiarity=known.options)

    @property
    def familiar_tap(self) -> int:
        """The tap that tells best whether an image is familiar: a quarter of the way into the tower."""
        quarter = (self.config.blocks or self.taps[-1]) / 4
        return min(self.taps, key=lambda tap: abs(tap - quarter))

    def fuse(self) -> DepthHead:
        """A copy of the head rearranged for inference: the same depth up to rounding, in fewer operations.

        It reads the same features and attaches alike. It stays in eval mode, computes in its own precision, has no
        auxiliary outputs, gives no gradients and cannot be saved; neither it nor this head changes with the other. Fuse
        once the head is trained and where it will run: fewer operations are not faster on every device.

        Raises:
            ConfigError: the head is fused already, or its architecture has no fused form.
        """
        if self.fused:
            raise ConfigError("this head is fused already; use it as it is")
        form = architecture(self.config.architecture).fused
        if form is None:
            raise ConfigError(f"the architecture {self.config.architecture!r} has no fused form; use the head as it is")
        head = self._without_weights(self.config)
        with torch.inference_mode(False), torch.no_grad():
            head.decoder = form(self.decoder).to(next(self.parameters())).requires_grad_(False)
            head.familiarity = copy.deepcopy(self.familiarity)
        head.fused = True
        return head.eval()

    def train(self, mode: bool = True) -> Self:
        """Switch to train mode, or to eval mode.

        Raises:
            ConfigError: train mode, of a fused head.
        """
        if mode and self.fused:
            raise ConfigError("a fused head cannot be trained; train the head it was made from, then fuse that")
        return super().train(mode)

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
        cls,
        host_or_tower: nn.Module | Tower | TowerSpec,
        *,
        architecture: str | None = None,
        preset: str = STANDARD,
        options: DecoderOptions | Mapping[str, Any] | None = None,
        base_model: str | None = None,
        trained_on: str | None = None,
    ) -> DepthHead:
        """A fresh head sized for a tower, taps scaled to its depth.

        Args:
            host_or_tower: a host with one vision tower, a tower found in one, or a tower's spec.
            architecture, preset, options, base_model, trained_on: see `DepthHeadConfig.for_tower`.

        Raises:
            HostError: the host is not a module, or has no tower, or several.
            ConfigError: an unknown architecture, preset or option, or an impossible value.
        """
        tower = host_or_tower if isinstance(host_or_tower, Tower | TowerSpec) else registry.find_tower(host_or_tower)
        spec = tower.spec if isinstance(tower, Tower) else tower
        choice: dict[str, Any] = {"architecture": architecture, "preset": preset, "options": options}
        return cls(DepthHeadConfig.for_tower(spec, **choice, base_model=base_model, trained_on=trained_on))

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
        return cls._without_weights(config)._with_weights(state, source=f"{str(path)!r}, under this package's names,")

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
            repo_or_folder: folder of a head or a finished run, id of a Hub repository ("org/name"), "embedded:NAME".
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
        options = HubOptions(
            revision=revision,
            cache_dir=cache_dir,
            token=token,
            local_files_only=local_files_only,
            force_download=force_download,
        )
        files = head_folder.find_files(repo_or_folder, options)
        config_file = files.fetch(head_folder.CONFIG_NAME)
        saved, _ = head_folder.read_config(config_file)
        try:
            config = DepthHeadConfig.from_dict(saved)
        except ConfigError as error:
            raise CheckpointError(f"{str(config_file)!r}: {error}") from error
        head = cls._without_weights(config)
        expected = head.state_dict()
        max_bytes = weights.check_size(expected, source=repr(str(config_file)))
        weights_file = files.fetch(head_folder.WEIGHTS_NAME, max_bytes=max_bytes)
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
            ConfigError: the head is fused: the folder of a head holds its unfused weights.
        """
        if self.fused:
            raise ConfigError(
                "a fused head cannot be saved; save the unfused head it was made from, and fuse again after loading"
            )
        return head_folder.write_folder(Path(folder), self.config.to_dict(), self.state_dict())

    def push_to_hub(
        self,
        repo: str,
        *,
        card: CardDetails | None = None,
        commit_message: str | None = None,
        private: bool | None = None,
        create_pr: bool = False,
        revision: str | None = None,
        token: str | bool | None = None,
    ) -> str:
        """Publish the head with a model card, in one commit; `from_pretrained(repo)` gives it back.

        A head that is there is replaced, and the card; earlier commits keep them. Another model is not, except as a
        proposal (`create_pr`).

        Args:
            repo: "org/name"; made if absent.
            card: what the card says beside what the head itself tells; None: nothing.
            commit_message: None: says what is pushed.
            private: whether a repository that is made now is private.
            create_pr: propose the commit as a pull request.
            revision: branch to commit to; None: main.
            token: with the right to write; None: that of `hf auth login`.

        Returns:
            Address of the commit, or of the pull request.

        Raises:
            ConfigError: not the id of a repository, the record of another head, or a fused head.
            CheckpointError: a weight is not finite, the repository holds another model, or the Hub refuses or cannot be
                reached.
        """
        check_repository_id(repo)
        details = CardDetails() if card is None else card
        if details.record is not None and details.record.get("head_digest") != module_digest(self):
            raise ConfigError(
                f"the record is not that of this head: its head_digest is {shown(details.record.get('head_digest'))}, "
                f"this head's {module_digest(self)!r}; give the run.json of its run"
            )
        parameters = sum(parameter.numel() for parameter in self.parameters())
        page = ModelCard(repo, self.config, parameters, details).text()
        options = PushOptions(
            commit_message=commit_message or f"Depth head ({self.config.architecture})",
            private=private,
            create_pr=create_pr,
            revision=revision,
            token=token,
        )
        with tempfile.TemporaryDirectory() as folder:
            files = {path.name: path for path in self.save_pretrained(folder).iterdir()}
            files[CARD_NAME] = Path(folder, CARD_NAME)
            files[CARD_NAME].write_text(page, encoding="utf-8")
            if details.picture is not None:
                files[PICTURE_NAME] = Path(details.picture)
            return push_files(repo, files, options, check=functools.partial(head_folder.check_replaceable_on_hub, repo))

    @classmethod
    def _without_weights(cls, config: DepthHeadConfig) -> DepthHead:
        # Built on the meta device: a config that asks for gigabytes is refused before any are taken.
        with torch.device("meta"):
            return cls(config)

    def _with_weights(self, state: dict[str, Tensor], *, source: str) -> DepthHead:
        self.load_state_dict(weights.matched_state(state, self.state_dict(), source=source), assign=True)
        return self.eval()


def checked_size(size: object) -> tuple[int, int]:
    """`size` as (height, width) in pixels, of any integer type; ConfigError for anything else or over 16384 a side."""
    return size_hw("output_size", size, max_side=MAX_OUTPUT_SIDE)
