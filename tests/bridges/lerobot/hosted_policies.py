"""Every policy of LeRobot with a vision transformer as a checkpoint that `--host lerobot:` loads.

Each is built as LeRobot builds it, from weights of the small models inside it; the host is left with their configs.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import lerobot
import torch
import transformers
from packaging.version import Version
from packed_policies import GROOT, MOLMOACT2, XVLA, groot_config, molmo_config, small_groot
from processor_files import save_qwen, save_tokenizer
from row_policies import MULTI_TASK_DIT, PI0, PI0_FAST, PI05, SMOLVLA, small_clip, small_pi, small_smolvla
from safetensors.torch import save_file
from tiny_policy import BLOCKS, CHUNK, STATE, WIDTH, TinyPolicy, features, policy_parts
from torch import nn

Sizes = Callable[[], AbstractContextManager[None]]


@dataclass(frozen=True)
class HostedPolicy:
    """A small policy as a checkpoint.

    Attributes:
        kind: its `type` in config.json.
        build: makes the policy, given a folder for what it is made of.
        adapter, path: what finds its tower, and where.
        sizes: in force while it is built: sizes and tokenizers that its class fixes or fetches.
        tiny: what can make it act, where the tests have an observation for it.
    """

    kind: str
    build: Callable[[Path], nn.Module]
    adapter: str
    path: str
    sizes: Sizes = nullcontext
    tiny: TinyPolicy | None = None

    def saved(self, folder: Path) -> Any:
        """The policy, after LeRobot wrote it into the folder; no weights of what it was made of are left."""
        base = folder / "clip"  # the multi-task DiT takes no folder without that word
        base.mkdir()
        with torch.random.fork_rng(devices=[]), self.sizes():
            torch.manual_seed(1)
            policy: Any = self.build(base).eval()
        policy.save_pretrained(folder)
        for file in base.rglob("*.safetensors"):
            file.unlink()
        return policy


# --- those whose depth is tested, too -------------------------------------------------------------------------------


def _of(
    tiny: TinyPolicy, kind: str, *base_fields: str, base: Callable[[], Any] | None = None, sizes: Sizes = nullcontext
):
    """A policy that is built from a folder which its config names."""

    def build(folder: Path) -> nn.Module:
        policy = tiny.seeded()
        if base is not None:
            base().save_pretrained(folder)
        for field in base_fields:
            setattr(policy.config, field, str(folder))
        return policy

    return HostedPolicy(kind, build, tiny.adapter, tiny.path, sizes, tiny)


@contextmanager
def _older_rotary_check() -> Iterator[None]:
    """MolmoAct2 of lerobot 0.6.1 checks its rotary settings in an older way of transformers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


# --- EO-1, Evo-1, VLA-JEPA and Wall-X -------------------------------------------------------------------------------

_LANGUAGE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 64,
    "max_position_embeddings": 256,
}
_QWEN_VISION = {
    "depth": BLOCKS,
    "hidden_size": WIDTH,
    "intermediate_size": 64,
    "num_heads": 4,
    "out_hidden_size": 32,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
}
_TOKENS = {"image_token_id": 5, "video_token_id": 6, "vision_start_token_id": 3, "vision_end_token_id": 4}


def _eo1(base: Path) -> nn.Module:
    _, policy_class, config_class = policy_parts("eo1", "EO1Policy", "EO1Config")
    rope = {"rope_type": "default", "mrope_section": [2, 1, 1]}
    config = transformers.Qwen2_5_VLConfig(
        text_config={**_LANGUAGE, "rope_scaling": rope}, vision_config={**_QWEN_VISION, "patch_size": 14}, **_TOKENS
    )
    transformers.Qwen2_5_VLForConditionalGeneration(config).save_pretrained(base)
    save_qwen(base, "Qwen2_5_VLProcessor", patch=14)
    return policy_class(config_class(**features(), chunk_size=CHUNK, vlm_base=str(base), dtype="float32"))


def _evo1(base: Path) -> nn.Module:
    _, policy_class, config_class = policy_parts("evo1", "Evo1Policy", "Evo1Config")
    config = transformers.InternVLConfig(
        vision_config={
            "hidden_size": WIDTH,
            "intermediate_size": 64,
            "num_hidden_layers": BLOCKS,
            "num_attention_heads": 4,
            "image_size": [64, 64],
            "patch_size": [16, 16],
        },
        text_config={"model_type": "qwen2", **_LANGUAGE},
        image_token_id=5,
        image_seq_length=4,
    )
    transformers.InternVLModel(config).save_pretrained(base)
    save_tokenizer(base, image_token="<IMG_CONTEXT>")
    settings = config_class(
        **features(),
        chunk_size=CHUNK,
        vlm_model_name=str(base),
        vlm_num_layers=1,
        vlm_dtype="float32",
        image_resolution=(64, 64),
        use_flash_attn=False,
        use_amp=False,
        embed_dim=32,
        hidden_dim=32,
        state_hidden_dim=32,
        num_heads=4,
        num_layers=1,
    )
    return policy_class(settings)


def _vla_jepa(base: Path) -> nn.Module:
    _, policy_class, config_class = policy_parts("vla_jepa", "VLAJEPAPolicy", "VLAJEPAConfig")
    rope = {"rope_type": "default", "mrope_interleaved": True, "mrope_section": [2, 1, 1]}
    vision = {**_QWEN_VISION, "patch_size": 16, "num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1]}
    qwen = transformers.Qwen3VLConfig(
        text_config={**_LANGUAGE, "head_dim": 8, "rope_scaling": rope}, vision_config=vision, **_TOKENS
    )
    transformers.Qwen3VLForConditionalGeneration(qwen).save_pretrained(base / "qwen")
    size = {"hidden_size": 48, "num_attention_heads": 4, "num_hidden_layers": 2}
    jepa = transformers.VJEPA2Config(
        **size,
        **{f"pred_{key}": value for key, value in size.items()},
        patch_size=16,
        crop_size=64,
        frames_per_clip=4,
    )
    transformers.VJEPA2Model(jepa).save_pretrained(base / "jepa")
    save_qwen(base / "qwen", "Qwen3VLProcessor", patch=16)
    transformers.VJEPA2VideoProcessor().save_pretrained(base / "jepa")
    settings = config_class(
        **features(),
        chunk_size=CHUNK,
        qwen_model_name=str(base / "qwen"),
        jepa_encoder_name=str(base / "jepa"),
        torch_dtype="float32",
        action_model_type="DiT-test",
        action_num_layers=1,
        action_hidden_size=16,
        predictor_depth=1,
        predictor_num_heads=4,
    )
    return policy_class(settings)


def _wall_x(base: Path) -> nn.Module:
    for needed in ("peft", "torchdiffeq", "qwen_vl_utils"):  # without them its module has no classes
        importlib.import_module(needed)
    modeling, policy_class, config_class = policy_parts("wall_x", "WallXPolicy", "WallXConfig")
    rope = {"rope_type": "default", "mrope_section": [2, 1, 1]}
    config = modeling.Qwen2_5_VLConfig(
        text_config={**_LANGUAGE, "rope_scaling": rope, "dof_config": {"arm": 6}, "num_experts": 1, "dim_inputs": [32]},
        vision_config={**_QWEN_VISION, "patch_size": 14},
        agent_pos_config={"arm": STATE},
        **_TOKENS,
    )
    config.save_pretrained(base)
    save_file({}, base / "model.safetensors")
    save_qwen(base, "Qwen2_5_VLProcessor", patch=14)
    return policy_class(
        config_class(
            **features(), chunk_size=CHUNK, pretrained_name_or_path=str(base), max_action_dim=6, max_state_dim=STATE
        )
    )


_NEW = (
    HostedPolicy("eo1", _eo1, "qwen-vl", "model.vlm_backbone.model.visual"),
    HostedPolicy("evo1", _evo1, "internvl", "model.embedder.model.vision_tower"),
    HostedPolicy("vla_jepa", _vla_jepa, "qwen-vl", "model.qwen.model.model.visual"),
    HostedPolicy("wall_x", _wall_x, "qwen-vl", "model.visual"),
)

_EVERYWHERE = (_of(SMOLVLA, "smolvla", sizes=small_smolvla), _of(XVLA, "xvla"))
HOSTED: tuple[HostedPolicy, ...] = (
    _EVERYWHERE
    if Version(lerobot.__version__) < Version("0.5")
    else (
        _of(PI0, "pi0", sizes=partial(small_pi, "pi0", "PI0Policy", "PI0Config")),
        _of(PI05, "pi05", sizes=partial(small_pi, "pi05", "PI05Policy", "PI05Config")),
        _of(PI0_FAST, "pi0_fast", sizes=partial(small_pi, "pi0_fast", "PI0FastPolicy", "PI0FastConfig")),
        *_EVERYWHERE,
        _of(MOLMOACT2, "molmoact2", "checkpoint_path", base=molmo_config, sizes=_older_rotary_check),
        _of(GROOT, "groot", "base_model_path", base=groot_config, sizes=small_groot),
        _of(MULTI_TASK_DIT, "multi_task_dit", "vision_encoder_name", "text_encoder_name", base=small_clip),
        *_NEW,
    )
)
