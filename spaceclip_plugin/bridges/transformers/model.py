"""A tower and its head as a model of transformers, for `pipeline("depth-estimation")` and the Auto classes."""

from __future__ import annotations

import inspect
import logging
import threading
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoImageProcessor, AutoModelForDepthEstimation, PreTrainedModel
from transformers.modeling_outputs import DepthEstimatorOutput
from typing_extensions import Self

from spaceclip_plugin import DepthAttachment, DepthHead, attach_depth_head
from spaceclip_plugin.attach import UnreadFrames
from spaceclip_plugin.attach.host_state import eval_twin
from spaceclip_plugin.attach.preparation_match import match_preparation, warn_of_other_images
from spaceclip_plugin.bridges.transformers.checkpoint import (
    SpaceClipDepthConfig,
    build_tower,
    head_config,
    image_processor_class,
    read_config,
    read_weights,
    tower_config,
    write_model,
)
from spaceclip_plugin.bridges.transformers.one_device import one_device
from spaceclip_plugin.data.preparation import DeclaredPreparation
from spaceclip_plugin.errors import CaptureError, CheckpointError, ConfigError, SpaceClipError
from spaceclip_plugin.towers import ImageGeometry, Tower, registry
from spaceclip_plugin.towers.adapter import declared_statistics

# What AutoModel and pipeline hand down and what changes nothing where a local folder is read and no code is loaded.
_WITHOUT_EFFECT = """
_commit_hash _from_auto _from_pipeline adapter_kwargs cache_dir code_revision force_download local_files_only
low_cpu_mem_usage proxies resume_download revision token trust_remote_code use_auth_token use_safetensors weights_only
"""
_BICUBIC = 3

_logger = logging.getLogger(__name__)


class SpaceClipForDepthEstimation(PreTrainedModel):  # type: ignore[no-untyped-call]
    """Metric depth of images from a vision tower and a depth head.

    Made by `from_host`, the tower stays the host's: it is no submodule, so that `to`, `half`, `train` and `state_dict`
    reach the head alone. Hooks stay on the tower until the model is gone; another attachment to that host sees what
    this model runs, and the host must not run in another thread meanwhile. Made by `from_pretrained`, the tower is the
    model's own. A copied or unpickled model never shares its tower.

    Example:
        >>> import torch
        >>> from transformers import CLIPVisionConfig, CLIPVisionModel
        >>> from spaceclip_plugin import DepthHead
        >>> sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4}
        >>> host = CLIPVisionModel(CLIPVisionConfig(**sizes, image_size=28, patch_size=14))
        >>> model = SpaceClipForDepthEstimation.from_host(host, DepthHead.for_tower(host))
        >>> model(torch.zeros(1, 3, 28, 28)).predicted_depth.shape
        torch.Size([1, 28, 28])
    """

    config_class = SpaceClipDepthConfig
    config: SpaceClipDepthConfig
    main_input_name = "pixel_values"

    def __init__(
        self, config: SpaceClipDepthConfig, *, live: Tower | None = None, head: DepthHead | None = None
    ) -> None:
        super().__init__(config)
        tower = build_tower(config) if live is None else live
        self._spec = tower.spec
        self._live = () if live is None else (live.module,)  # in a tuple, where nn.Module does not look
        self._link: tuple[DepthAttachment, threading.Lock] | None = None
        if live is None:
            self.tower = tower.module
        # AutoModelForDepthEstimation.from_config gives random weights, whatever the config says.
        self.head = DepthHead(replace(head_config(config), trained_on=None)) if head is None else head

    @classmethod
    def from_host(
        cls, host: nn.Module, head: DepthHead | str | Path, *, tower: str | None = None, adapter: str | None = None
    ) -> Self:
        """The tower of a live host, shared with it and unchanged, and a head.

        Args:
            host: a vision model, or anything with a vision tower inside; the rest of it is neither used nor saved.
            head: a `DepthHead`, taken as it is, or the folder of a saved one.
            tower: module path of the tower, where the host has several.
            adapter: name of the adapter, where discovery is wrong.

        Raises:
            HostError: no tower, or several and none chosen.
            HeadMismatchError: the head does not fit the tower.
            CheckpointError: the folder is no head's.
        """
        live = registry.find_tower(host, tower=tower, adapter=adapter)
        if isinstance(head, (str, Path)):
            first = next((value for value in live.module.parameters() if not value.is_meta), torch.empty(0))
            head = DepthHead.from_pretrained(head).to(first.device)
        if not isinstance(head, DepthHead):
            raise ConfigError(f"head must be a DepthHead or the folder of one, got {type(head).__name__}")
        declared = declared_statistics(host, live.spec.path)
        statistics = None if declared is None else asdict(declared)
        config = SpaceClipDepthConfig(tower_config(live.module), head.config.to_dict(), live.spec.adapter, statistics)
        model = cls(config, live=live, head=head)
        model._linked()
        return model

    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        focal_length: Tensor | None = None,
    ) -> DepthEstimatorOutput | tuple[Any, ...]:
        """Depth of a batch of images, without gradients and in eval mode.

        Args:
            pixel_values: (B, 3, H, W), prepared for the tower as `image_processor()` does.
            labels: refused; heads are trained with `spaceclip train`.
            output_hidden_states: also return the maps (B, C, h, w) that the head reads, ascending by tap.
            return_dict: False for a tuple.
            focal_length: (B, 2), or (2,) for all, of the cameras: fx and fy over the width and height of the image that
                `pixel_values` show, see `Intrinsics.focal_length`. None: metres are those of the camera that the head
                assumes, as in `pipeline`, which does not tell another.

        Returns:
            `predicted_depth` (B, H, W) float32 in metres of those cameras along the optical axis. It is a number for
            every pixel, for sky or an image of one value throughout too; only a `DepthMap` says where there is none.
            Into the strip that a tower whose patches do not divide its image never reads, its edge goes on: zeros there
            would be mixed into the depth beside them when a pipeline resizes it.

        Raises:
            ConfigError: labels, not such images, not such focal lengths, or any where the head does not tell its own.
            CaptureError: the tower refuses that size, or activations or depth are not finite.
        """
        if labels is not None:
            raise ConfigError("this model computes no loss; train a head with `spaceclip train` and wrap that")
        scales = None if focal_length is None else self._lens_scales(focal_length, len(pixel_values))
        attachment, lock = self._linked()
        with lock:
            attachment.refresh(pixel_values)
            seen = attachment.features()
        if not seen:
            raise CaptureError("the tower ran and its taps saw nothing: this model cannot be traced or exported")
        features = seen[-1]
        device = next(self.head.parameters()).device
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            depth_m = eval_twin(self.head)(features, tuple(pixel_values.shape[-2:])).depth_m.float()
        if not depth_m.isfinite().all():
            raise CaptureError("the head gave NaN or infinity; keep it in float32, whatever the host's precision is")
        if scales is not None:
            depth_m = depth_m * scales.to(depth_m)
        if features.seen is not None:
            depth_m = features.seen.continued(depth_m)
        wanted = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        maps = tuple(features.hidden[tap] for tap in self.head.taps) if wanted else None
        output = DepthEstimatorOutput(predicted_depth=depth_m, hidden_states=maps)
        return output.to_tuple() if return_dict is False else output

    def _lens_scales(self, focal_length: Tensor, images: int) -> Tensor:
        """(B or 1, 1, 1): what the head's metres are multiplied by for cameras of these focal lengths."""
        if not isinstance(focal_length, Tensor) or tuple(focal_length.shape) not in ((2,), (images, 2)):
            given = tuple(focal_length.shape) if isinstance(focal_length, Tensor) else type(focal_length).__name__
            raise ConfigError(f"focal_length is a tensor (2,) or ({images}, 2), one for each image; got {given}")
        rows = focal_length.detach().cpu().double().reshape(-1, 2).tolist()
        return torch.tensor([self.head.config.scale_for(row) for row in rows])[:, None, None]

    def image_processor(self) -> Any:
        """An image processor of transformers that stretches photos to the tower's input size, as heads are trained.

        It gives the pixels of `data.prepare`; the one that transformers 5 makes of the saved file is up to one grey
        level off. The host's own may crop: a pipeline then stretches the depth of the crop over the whole photo. A
        warning says where the head was trained on images that were not stretched.
        """
        stretch = DeclaredPreparation(ImageGeometry.STRETCH, self._spec)
        warn_of_other_images(match_preparation(self.head.config, stretch))
        height, width = self._spec.image_hw
        return image_processor_class()(
            size={"height": height, "width": width},
            resample=_BICUBIC,
            keep_aspect_ratio=False,
            ensure_multiple_of=1,
            image_mean=list(self._spec.image_mean),
            image_std=list(self._spec.image_std),
        )

    def save_pretrained(  # type: ignore[override]
        self,
        save_directory: str | Path,
        *,
        safe_serialization: bool = True,
        max_shard_size: int | str | None = None,
    ) -> None:
        """Write config.json, model.safetensors (tower and head) and preprocessor_config.json.

        A saved CLIP or SigLIP tower loads in any transformers; ViT and DINOv2 where weights still have their names.

        Args:
            save_directory: made if absent; a model there is replaced.
            safe_serialization: not False.
            max_shard_size: without effect; `push_to_hub` gives it.

        Raises:
            CheckpointError: transformers would not build this tower again, a weight is not finite, or the folder
                cannot be written.
            ConfigError: another format than safetensors.
        """
        if not safe_serialization:
            raise ConfigError("this model is saved as safetensors only; leave safe_serialization at True")
        self.config.head = self.head.config.to_dict()
        self.config.architectures = [type(self).__name__]
        write_model(Path(save_directory), self.config, {"tower": self._tower, "head": self.head})
        self.image_processor().save_pretrained(save_directory)

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        pretrained_model_name_or_path: str | Path,
        *model_args: Any,
        config: SpaceClipDepthConfig | None = None,
        dtype: torch.dtype | str | None = None,
        torch_dtype: torch.dtype | str | None = None,
        device_map: object = None,
        **kwargs: Any,
    ) -> Self:
        """The model that `save_pretrained` wrote, strictly: every weight present, of the right shape, finite.

        The Auto classes and `pipeline` call it. Where a weight is missing, transformers' own would draw a random one.

        Args:
            pretrained_model_name_or_path: a local folder.
            model_args: none.
            config: what config.json holds, where it was read already.
            dtype: of the tower; None or "auto": as saved. The head keeps the one it was saved in.
            torch_dtype: older name of `dtype`.
            device_map: the one device that tower and head go to, as `pipeline(device_map=…)` hands it down: a device,
                {"": device}, or "auto" for the accelerator where there is one. None: the CPU.
            kwargs: those of transformers that change nothing here.

        Raises:
            CheckpointError: not such a folder, or weights that do not match the config.
            ConfigError: an argument that would have an effect this model does not know, or no single device that is
                there.
        """
        device = one_device(device_map)
        unknown = [name for name, value in kwargs.items() if value and name not in _WITHOUT_EFFECT.split()]
        unknown += ["use_safetensors=False"] if kwargs.get("use_safetensors") is False else []
        if model_args or unknown:
            raise ConfigError(
                f"{cls.__name__}.from_pretrained takes a folder, config, dtype and device_map, got "
                f"{[*model_args, *unknown]}; leave it out"
            )
        folder = Path(pretrained_model_name_or_path)
        if config is None:
            config = read_config(folder)
        elif not isinstance(config, SpaceClipDepthConfig):
            raise ConfigError(f"config must be a SpaceClipDepthConfig, got {type(config).__name__}")
        given = (dtype, torch_dtype, getattr(config, "dtype", None))  # some AutoModels put it into the config alone
        tower_dtype = _floating(next((value for value in given if value is not None), None))
        # A new one: what else a file says (attn_implementation names code to load) is not handed to transformers.
        config = SpaceClipDepthConfig(config.tower, config.head, config.adapter, config.statistics)
        try:
            state = read_weights(folder, config)
            with torch.random.fork_rng(devices=[]):
                model = cls(config, head=DepthHead(head_config(config)))
            model.load_state_dict(state, assign=True)
            model._linked()
        except SpaceClipError as error:
            raise CheckpointError(f"no model can be made of {str(folder)!r}: {error}") from error
        model.tower.to(tower_dtype)
        model.eval()  # type: ignore[no-untyped-call]
        if device is not None:
            model.to(device)  # type: ignore[arg-type]
            model.hf_device_map = {"": device}  # type: ignore[assignment]  # where the pipeline then leaves it
        return model

    @property
    def _tower(self) -> nn.Module:
        return self._live[0] if self._live else self.tower

    def _linked(self) -> tuple[DepthAttachment, threading.Lock]:
        if self._link is None:
            found = registry.find_tower(self._tower, adapter=self._spec.adapter)
            # Alone, a tower no longer knows what the host around it declared.
            spec = replace(found.spec, image_mean=self._spec.image_mean, image_std=self._spec.image_std)
            attachment = attach_depth_head(
                self._tower, self.head, tower=replace(found, spec=spec), unread=UnreadFrames(max_frames=1)
            )
            if not self.head.trained:
                _logger.warning("the head on the %s has random weights: its depth means nothing", self._spec)
            self._link = attachment, threading.Lock()
        return self._link

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_link": None}  # a copy makes a link to its own tower when it first runs

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing: tower and head have set their own."""


def register() -> None:
    """Have AutoConfig, AutoModelForDepthEstimation and AutoImageProcessor know the model; may be called again.

    Example:
        >>> from transformers import AutoConfig
        >>> register()
        >>> type(AutoConfig.for_model("spaceclip_depth")).__name__
        'SpaceClipDepthConfig'
    """
    AutoConfig.register(SpaceClipDepthConfig.model_type, SpaceClipDepthConfig, exist_ok=True)
    AutoModelForDepthEstimation.register(SpaceClipDepthConfig, SpaceClipForDepthEstimation, exist_ok=True)
    names = inspect.signature(AutoImageProcessor.register).parameters
    keyword = "slow_image_processor_class" if "slow_image_processor_class" in names else "image_processor_class"
    AutoImageProcessor.register(SpaceClipDepthConfig, **{keyword: image_processor_class()}, exist_ok=True)


def _floating(dtype: torch.dtype | str | None) -> torch.dtype | None:
    """Of the tower; None: as saved."""
    name = str(dtype).removeprefix("torch.")
    if name in ("None", "auto"):
        return None
    if name not in ("float32", "float16", "bfloat16"):
        raise ConfigError(f"dtype must be float32, float16, bfloat16 or auto, got {dtype!r}")
    found: torch.dtype = getattr(torch, name)
    return found
