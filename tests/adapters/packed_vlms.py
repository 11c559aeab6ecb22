"""Small random towers of transformers whose images come as one sequence of patches: Qwen's and SigLIP 2's.

A family that the installed transformers does not have yet is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import transformers
from einops import rearrange, repeat
from tiny_hosts import BLOCKS, PATCH, SQUARE, VISION, WIDE, WIDTH, TinyHost, hf_path, known
from torch import Tensor, nn

from spaceclip_plugin.towers.spec import ATTENTION_POOL, RAW_MEAN

MERGE = 2


def merged_patches(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Images of one size as Qwen's processors pack them: patches of a merged unit together, every frame doubled."""
    patches = rearrange(pixels, "b c (h m p) (w n q) -> (b h w m n) c p q", m=MERGE, n=MERGE, p=PATCH, q=PATCH)
    grid = [1, pixels.shape[2] // PATCH, pixels.shape[3] // PATCH]
    return repeat(patches, "n c p q -> n (c t p q)", t=2), torch.tensor([grid] * len(pixels))


def _qwen_run(host: Any, pixels: Tensor) -> object:
    patches, grid = merged_patches(pixels)
    return host(patches, grid_thw=grid)


def token_of_cell(run: Callable[[Tensor], Tensor], pixels: Tensor) -> list[list[int]]:
    """Which token carries each patch of each image: found by changing one patch and looking what moved.

    `run` gives the input of the first block as (ΣN, C).
    """
    before, rows, columns = run(pixels), pixels.shape[2] // PATCH, pixels.shape[3] // PATCH
    order: list[list[int]] = []
    for image in range(len(pixels)):
        order.append([])
        for y, x in ((y, x) for y in range(rows) for x in range(columns)):
            changed = pixels.clone()
            changed[image, :, y * PATCH : (y + 1) * PATCH, x * PATCH : (x + 1) * PATCH] += 1
            (moved,) = (run(changed) - before).abs().amax(dim=1).gt(1e-4).nonzero()
            order[-1].append(int(moved))
    return order


def _qwen_truth(module: Any, pixels: Tensor) -> tuple[list[Tensor], Tensor]:
    states: list[Tensor] = []

    def keep(_module: nn.Module, args: tuple[Tensor, ...], _kwargs: object) -> None:
        states.append(args[0])

    handles = [block.register_forward_pre_hook(keep, with_kwargs=True) for block in module.blocks]
    ends: list[Tensor] = []
    handles.append(module.blocks[-1].register_forward_hook(lambda _module, _args, output: ends.append(output)))

    def first_input(images: Tensor) -> Tensor:
        states.clear()
        _qwen_run(module, images)
        return states[0]

    order = torch.tensor(token_of_cell(first_input, pixels))
    states.clear()
    ends.clear()
    _qwen_run(module, pixels)
    for handle in handles:
        handle.remove()
    hidden = [state[order] for state in (*states, *ends)]
    return hidden, hidden[-1].mean(dim=1)


_QWEN = {"depth": BLOCKS, "hidden_size": WIDTH, "intermediate_size": 64, "num_heads": 4, "patch_size": PATCH}
_QWEN_TOWERS: Sequence[tuple[str, str, str, dict[str, object]]] = (
    (
        "qwen2-vl",
        "qwen2_vl",
        "Qwen2VisionTransformerPretrainedModel",
        {
            "depth": BLOCKS,
            "embed_dim": WIDTH,
            "hidden_size": WIDTH,
            "mlp_ratio": 2,
            "num_heads": 4,
            "patch_size": PATCH,
        },
    ),
    (
        "qwen2.5-vl",
        "qwen2_5_vl",
        "Qwen2_5_VisionTransformerPretrainedModel",
        {**_QWEN, "window_size": 56, "fullatt_block_indexes": [1], "out_hidden_size": WIDTH},
    ),
    (
        "qwen3-vl",
        "qwen3_vl",
        "Qwen3VLVisionModel",
        {**_QWEN, "num_position_embeddings": 64, "out_hidden_size": WIDTH, "deepstack_visual_indexes": [0, 1]},
    ),
)


def _qwen(module: str, name: str, options: dict[str, object]) -> nn.Module:
    library = getattr(transformers.models, module)
    model = getattr(getattr(library, f"modeling_{module}"), name)
    return model(model.config_class(**options))


def _siglip2() -> nn.Module:
    config = {key: value for key, value in VISION.items() if key != "image_size"}
    return transformers.Siglip2VisionModel(transformers.Siglip2VisionConfig(num_patches=16, **config))


def _siglip2_inputs(pixels: Tensor) -> dict[str, Tensor]:
    patches = rearrange(pixels, "b c (h p) (w q) -> b (h w) (p q c)", p=PATCH, q=PATCH)
    grid = [pixels.shape[2] // PATCH, pixels.shape[3] // PATCH]
    mask = torch.ones(patches.shape[:2], dtype=torch.long)
    return {
        "pixel_values": patches,
        "pixel_attention_mask": mask,
        "spatial_shapes": torch.tensor([grid] * len(pixels)),
    }


def _siglip2_run(host: Any, pixels: Tensor) -> object:
    return host(**_siglip2_inputs(pixels))


def _siglip2_truth(module: Any, pixels: Tensor) -> tuple[list[Tensor], Tensor]:
    inputs = _siglip2_inputs(pixels)
    positional = (inputs["pixel_values"], inputs["pixel_attention_mask"], inputs["spatial_shapes"])
    output = module(*positional, output_hidden_states=True)
    hidden = [module.embeddings(inputs["pixel_values"], inputs["spatial_shapes"])]
    for layer in module.encoder.layers:
        given = layer(hidden[-1], None)
        hidden.append(given if isinstance(given, Tensor) else given[0])
    return hidden, output.pooler_output


PACKED = (
    *(
        TinyHost(
            name,
            partial(_qwen, module, model, options),
            adapter="qwen-vl",
            path="",
            context=RAW_MEAN,
            prefix=0,
            run=_qwen_run,
            truth=_qwen_truth,
            image_hw=WIDE,
            built_for=(448, 448),
            packed=True,
        )
        for name, module, model, options in _QWEN_TOWERS
        if hasattr(transformers.models, module)
    ),
    *known(
        "Siglip2VisionModel",
        TinyHost(
            "siglip2-naflex",
            _siglip2,
            adapter="siglip2",
            path=hf_path(""),
            context=ATTENTION_POOL,
            prefix=0,
            run=_siglip2_run,
            truth=_siglip2_truth,
            image_hw=WIDE,
            built_for=SQUARE,
            packed=True,
        ),
    ),
)
