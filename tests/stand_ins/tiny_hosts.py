"""Small random hosts of every family, what their own libraries say of them, and hooks that stand in for the taps."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import timm
import torch
import transformers
from open_clip.model import CLIP as OpenClipModel
from open_clip.model import CLIPVisionCfg, CustomTextCLIP
from packaging.version import Version
from torch import Tensor, nn

from spaceclip_plugin.towers.spec import ATTENTION_POOL, CLS, MEAN, RAW_MEAN, RawFrame, Tower

PATCH, WIDTH, BLOCKS, BATCH = 14, 32, 3, 2
SQUARE, WIDE = (56, 56), (56, 84)

VISION = {
    "hidden_size": WIDTH,
    "intermediate_size": 64,
    "num_hidden_layers": BLOCKS,
    "num_attention_heads": 4,
    "image_size": SQUARE[0],
    "patch_size": PATCH,
}
# As wide as the vision tower on purpose: width must not be what tells a tower from a language model.
TEXT = {
    "hidden_size": WIDTH,
    "intermediate_size": 64,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "vocab_size": 128,
}
LANGUAGE = {**TEXT, "num_key_value_heads": 2, "max_position_embeddings": 256, "head_dim": 8}
IMAGE_TOKEN = 5

Run = Callable[[nn.Module, Tensor], object]
Truth = Callable[[nn.Module, Tensor], tuple[list[Tensor], Tensor]]


@dataclass(frozen=True)
class TinyHost:
    """A host, where its tower is, and the host's own account of the tower.

    `run` is one call of the host on an image batch; `truth` gives all hidden states (B, N, C), prefix tokens first and
    patches in raster order, and the pooled (B, C). Towers that take packed patches are beyond structural discovery.
    """

    name: str
    build: Callable[[], nn.Module]
    adapter: str
    path: str
    context: str
    prefix: int
    run: Run
    truth: Truth
    image_hw: tuple[int, int] = SQUARE
    built_for: tuple[int, int] | None = None
    packed: bool = False

    @property
    def grid_hw(self) -> tuple[int, int]:
        return self.image_hw[0] // PATCH, self.image_hw[1] // PATCH

    def seeded(self) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            host = self.build().eval()
            # Class tokens and positions start near zero in some libraries; give them weight in the outcome.
            for name, parameter in host.named_parameters():
                if parameter.ndim and ("token" in name or "pos" in name):
                    nn.init.normal_(parameter, std=0.5)
        return host

    def pixels(self, batch: int = BATCH, seed: int = 2) -> Tensor:
        return torch.randn(batch, 3, *self.image_hw, generator=torch.Generator().manual_seed(seed))


def contract_of(name: str, adapter: str, host: nn.Module, tower: nn.Module) -> dict[str, str]:
    """What the version matrix reports of a host that the contract was run on; recorded as test properties."""
    return {"contract": name, "adapter": adapter, "host": type(host).__name__, "tower": type(tower).__name__}


def first_tensor(output: Any) -> Tensor:
    return output if isinstance(output, Tensor) else first_tensor(output[0])


@contextmanager
def captured(tower: Tower) -> Iterator[list[RawFrame]]:
    """The frames that calls inside the `with` leave behind, gathered as the taps do."""
    frames: list[RawFrame] = []

    def start(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        frames.append(RawFrame(len(frames), tower.adapter.image_call(tower, args, kwargs)))

    def block_input(_module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
        frames[-1].hidden[0] = args[0] if args else kwargs["hidden_states"]

    def block_output(index: int) -> Callable[[nn.Module, object, object], None]:
        return lambda _module, _inputs, output: frames[-1].hidden.update({index: first_tensor(output)})

    def context(_module: nn.Module, _inputs: object, output: object) -> None:
        frames[-1].context = first_tensor(output)

    handles = [
        tower.entry.register_forward_pre_hook(start, with_kwargs=True),
        tower.blocks[0].register_forward_pre_hook(block_input, with_kwargs=True),
        *(block.register_forward_hook(block_output(i)) for i, block in enumerate(tower.blocks, start=1)),
    ]
    if tower.context_source is not None:
        handles.append(tower.context_source.register_forward_hook(context))
    try:
        yield frames
    finally:
        for handle in handles:
            handle.remove()


def call(host: nn.Module, pixels: Tensor) -> object:
    return host(pixels)


# --- transformers ---------------------------------------------------------------------------------------------------

_FLAT = not hasattr(transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**VISION)), "vision_model")
_IN_MODEL = hasattr(transformers, "LlavaModel")
# Rectangular images came with transformers 4.46, towers without a pooling head with PaliGemma in 4.41.
_INTERPOLATES = "interpolate_pos_encoding" in inspect.signature(transformers.CLIPVisionModel.forward).parameters
_HAS_PALIGEMMA = hasattr(transformers, "PaliGemmaConfig")
# Up to transformers 4.45, LLaVA's processor wrote one image token and the model made room for the rest.
_IMAGE_TOKENS = 1 if Version(transformers.__version__) < Version("4.46") else 16


def known(name: str, *hosts: TinyHost) -> tuple[TinyHost, ...]:
    """The hosts, where the installed transformers has their class."""
    return hosts if hasattr(transformers, name) else ()


def hf_path(base: str) -> str:
    """Where the tower of a vision model is: the model itself from transformers 5.6 on, before that an inner module."""
    return base if _FLAT else f"{base}.vision_model".lstrip(".")


def hf_truth(module: Any, pixels: Tensor, **options: bool) -> tuple[list[Tensor], Tensor]:
    out = module(pixels, output_hidden_states=True, **options)
    hidden = out.hidden_states
    if hidden is None:  # transformers 4.57 to 5.5: some transformers inside a model do not report them themselves
        hidden = [getattr(module, "pre_layrnorm", nn.Identity())(module.embeddings(pixels, **options))]
        for layer in module.encoder.layers:
            hidden.append(layer(hidden[-1], None))
    pooled = out.last_hidden_state.mean(dim=1) if out.pooler_output is None else out.pooler_output
    return list(hidden), pooled


_interpolating = {"interpolate_pos_encoding": True}


def _hf_wide(module: nn.Module, pixels: Tensor) -> object:
    return module(pixels, **_interpolating)


def _image_features(host: Any, pixels: Tensor) -> object:
    return host.get_image_features(pixel_values=pixels)


def _vlm_run(host: Any, pixels: Tensor) -> object:
    ids = torch.tensor([[IMAGE_TOKEN] * _IMAGE_TOKENS + [2, 7, 8]] * len(pixels))
    kwargs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}
    return host(**kwargs)


def _llava() -> nn.Module:
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**VISION),
        text_config=transformers.LlamaConfig(**LANGUAGE),
        image_token_index=IMAGE_TOKEN,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )
    return transformers.LlavaForConditionalGeneration(config)


def _paligemma() -> nn.Module:
    config = transformers.PaliGemmaConfig(
        vision_config={"model_type": "siglip_vision_model", "vision_use_head": False, "projection_dim": 32, **VISION},
        text_config={"model_type": "gemma", **LANGUAGE},
        projection_dim=32,
        image_token_index=IMAGE_TOKEN,
    )
    return transformers.PaliGemmaForConditionalGeneration(config)


def _clip() -> nn.Module:
    return transformers.CLIPModel(transformers.CLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=16))


def _siglip() -> nn.Module:
    return transformers.SiglipModel(transformers.SiglipConfig(text_config=TEXT, vision_config=VISION))


def _siglip_headless() -> nn.Module:
    return transformers.SiglipVisionModel(transformers.SiglipVisionConfig(vision_use_head=False, **VISION))


def _clip_vision() -> nn.Module:
    return transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**VISION))


def _clip_projected() -> nn.Module:
    return transformers.CLIPVisionModelWithProjection(transformers.CLIPVisionConfig(projection_dim=16, **VISION))


def _siglip_vision() -> nn.Module:
    return transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**VISION))


# `CLIPModel.vision_model` and the like have always been the tower itself.
VLM_PATH = hf_path("model.vision_tower" if _IN_MODEL else "vision_tower")
_ALONE = hf_path("")

_clip_host = partial(TinyHost, adapter="clip", path=_ALONE, context=CLS, prefix=1, run=call, truth=hf_truth)
_siglip_host = partial(
    TinyHost, adapter="siglip", path=_ALONE, context=ATTENTION_POOL, prefix=0, run=call, truth=hf_truth
)
_wide = {"run": _hf_wide, "truth": partial(hf_truth, **_interpolating), "image_hw": WIDE, "built_for": SQUARE}
_in_model = {"path": "vision_model", "run": _image_features}
_in_vlm = {"path": VLM_PATH, "run": _vlm_run}

_INTERPOLATING = (
    _clip_host("clip-vision-wide", _clip_vision, **_wide),
    _siglip_host("siglip-vision-wide", _siglip_vision, **_wide),
)
_HEADLESS = (
    _siglip_host("siglip-headless", _siglip_headless, context=MEAN),
    _siglip_host("paligemma", _paligemma, **_in_vlm, context=MEAN),
)

TRANSFORMERS = (
    _clip_host("clip-vision", _clip_vision),
    _clip_host("clip-projected", _clip_projected, path="vision_model"),
    _clip_host("clip", _clip, **_in_model),
    _clip_host("llava", _llava, **_in_vlm),
    _siglip_host("siglip-vision", _siglip_vision),
    _siglip_host("siglip", _siglip, **_in_model),
    *(_INTERPOLATING if _INTERPOLATES else ()),
    *(_HEADLESS if _HAS_PALIGEMMA else ()),
)

# --- timm -----------------------------------------------------------------------------------------------------------


def _timm(name: str = "vit_tiny_patch16_224", **kwargs: object) -> Callable[[], nn.Module]:
    shape = {"img_size": WIDE, "patch_size": PATCH, "embed_dim": WIDTH, "depth": BLOCKS, "num_heads": 4}
    return lambda: timm.create_model(name, pretrained=False, num_classes=7, **{**shape, **kwargs})


def _timm_hidden(model: Any, pixels: Tensor) -> list[Tensor]:
    tokens = model.norm_pre(model.patch_drop(model._pos_embed(model.patch_embed(pixels))))
    hidden = [tokens]
    for block in model.blocks:
        hidden.append(block(hidden[-1]))
    return hidden


def _timm_pooled(model: Any, pixels: Tensor) -> tuple[list[Tensor], Tensor]:
    """Truth where the host's own pooled vector is the context."""
    return _timm_hidden(model, pixels), model.forward_head(model.forward_features(pixels), pre_logits=True)


def _timm_mean(model: Any, pixels: Tensor) -> tuple[list[Tensor], Tensor]:
    """Truth where the context is the mean patch after the final norm, whatever the host makes of it."""
    hidden = _timm_hidden(model, pixels)
    return hidden, model.norm(hidden[-1])[:, model.num_prefix_tokens :].mean(dim=1)


def _timm_class_token(model: Any, pixels: Tensor) -> tuple[list[Tensor], Tensor]:
    """Truth where the host pools more than the class token."""
    hidden = _timm_hidden(model, pixels)
    return hidden, model.norm(hidden[-1])[:, 0]


_REGISTERS = {"reg_tokens": 4, "no_embed_class": True}
_AVERAGE = {"class_token": False, "global_pool": "avg"}
_timm_host = partial(
    TinyHost, adapter="timm-vit", path="", context=CLS, prefix=1, run=call, truth=_timm_pooled, image_hw=WIDE
)
_averaging = partial(_timm_host, context=MEAN, prefix=0)

TIMM = (
    _timm_host("timm-cls", _timm()),
    _timm_host("timm-registers", _timm(**_REGISTERS), prefix=5),
    _timm_host("timm-dynamic", _timm(dynamic_img_size=True, img_size=SQUARE), built_for=SQUARE),
    _timm_host("timm-distilled", _timm("deit_tiny_distilled_patch16_224"), prefix=2, truth=_timm_class_token),
    _timm_host("timm-siglip", _timm("vit_base_patch16_siglip_224"), context=ATTENTION_POOL, prefix=0),
    _averaging("timm-average", _timm(**_AVERAGE)),
    _averaging("timm-average-with-cls", _timm(global_pool="avg"), prefix=1),
    _averaging("timm-average-normed", _timm(**_AVERAGE, **_REGISTERS, fc_norm=False), prefix=4, truth=_timm_mean),
)

# --- open_clip ------------------------------------------------------------------------------------------------------

_OPEN_CLIP_TEXT = {"context_length": 8, "vocab_size": 100, "width": WIDTH, "heads": 4, "layers": 5}


def _open_clip(image_size: tuple[int, int] = WIDE, **vision: object) -> Callable[[], nn.Module]:
    shape = {"layers": BLOCKS, "width": WIDTH, "head_width": 8, "patch_size": PATCH, "image_size": image_size}
    return lambda: OpenClipModel(embed_dim=16, vision_cfg={**shape, **vision}, text_cfg=_OPEN_CLIP_TEXT)


def _open_clip_timm() -> nn.Module:
    """As `ViT-B-16-SigLIP` is built: a timm trunk that pools and projects by itself."""
    vision = {"timm_model_name": "vit_tiny_patch16_224", "timm_pool": "token", "timm_proj": ""}
    host = CustomTextCLIP(embed_dim=WIDTH, vision_cfg={**vision, "image_size": 224}, text_cfg=_OPEN_CLIP_TEXT)
    host.visual.trunk = _timm("vit_base_patch16_siglip_224")()
    return host


def _encode_image(host: Any, pixels: Tensor) -> object:
    return host.encode_image(pixels)


def open_clip_truth(visual: Any, pixels: Tensor) -> tuple[list[Tensor], Tensor]:
    """Block by block in the layout of the blocks; pooled as the tower does before its projection."""
    tokens = visual.conv1(pixels).flatten(2).transpose(1, 2)
    tokens = torch.cat([visual.class_embedding.expand(len(pixels), 1, -1), tokens], dim=1)
    hidden = [visual.ln_pre(tokens + visual.positional_embedding)]
    sequence_first = not getattr(visual.transformer.resblocks[0].attn, "batch_first", True)
    for block in visual.transformer.resblocks:
        tokens = block(hidden[-1].transpose(0, 1)).transpose(0, 1) if sequence_first else block(hidden[-1])
        hidden.append(tokens)
    unprojected = copy.deepcopy(visual)
    unprojected.proj = None
    return hidden, hidden[-1][:, 1:].mean(dim=1) if visual.attn_pool is not None else unprojected(pixels)


_open_clip_host = partial(
    TinyHost,
    adapter="open-clip",
    path="visual",
    context=CLS,
    prefix=1,
    run=_encode_image,
    truth=open_clip_truth,
    image_hw=WIDE,
)

_open_clip_knows = CLIPVisionCfg.__dataclass_fields__.keys()
_average = {"pool_type": "avg"} if "pool_type" in _open_clip_knows else {"global_average_pool": True}


def _if_known(option: str, **overrides: Any) -> tuple[TinyHost, ...]:
    """The host built with this option, where the installed open_clip has it."""
    host = _open_clip_host(f"open-clip-{option.replace('_', '-')}", **overrides)
    return (host,) if option in _open_clip_knows else ()


OPEN_CLIP = (
    _open_clip_host("open-clip", _open_clip()),
    _open_clip_host("open-clip-average", _open_clip(**_average), context=MEAN),
    *_if_known("final_ln_after_pool", build=_open_clip(**_average, final_ln_after_pool=True), context=MEAN),
    *_if_known("qk_norm", build=_open_clip(qk_norm=True)),
    _open_clip_host("open-clip-coca", _open_clip(attentional_pool=True), context=RAW_MEAN),
    TinyHost(
        "open-clip-timm",
        _open_clip_timm,
        adapter="timm-vit",
        path="visual.trunk",
        context=ATTENTION_POOL,
        prefix=0,
        run=_encode_image,
        truth=_timm_pooled,
        image_hw=WIDE,
    ),
)
