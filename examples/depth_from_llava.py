"""Depth from the eyes of a LLaVA-style model, while it answers as before.

Runs offline: the model and the head are small and random, so the depth means nothing. With your own model and a head
trained for its tower (`spaceclip train`), replace `small_llava()` and `None`.
"""

from __future__ import annotations

import torch
import transformers
from torch import nn

from spaceclip_plugin import Intrinsics, attach_depth_head

IMAGE_TOKEN, PATCHES = 5, 16


def small_llava() -> nn.Module:
    """A LLaVA with a CLIP tower of four blocks on 56x56 images."""
    vision = transformers.CLIPVisionConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=4, num_attention_heads=4, image_size=56, patch_size=14
    )
    text = transformers.LlamaConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, vocab_size=128
    )
    config = transformers.LlavaConfig(vision_config=vision, text_config=text, image_token_index=IMAGE_TOKEN)
    return transformers.LlavaForConditionalGeneration(config).eval()


def main() -> None:
    """Ask, read depth, check that the answer is the same bits."""
    vla = small_llava()
    tokens = torch.tensor([[1, *[IMAGE_TOKEN] * PATCHES, 7, 8]])
    request = {
        "input_ids": tokens,
        "attention_mask": torch.ones_like(tokens),
        "pixel_values": torch.randn(1, 3, 56, 56),
    }
    camera = Intrinsics.from_fovy(1.0, image_hw=(56, 56))

    with torch.no_grad(), attach_depth_head(vla, None, cameras={"front": camera}) as depth:
        print(depth)
        vla(**request)
        for frame in depth.read():
            print(frame)
            print("points", tuple(frame.points().shape))
        report = depth.verify(lambda: vla(**request))
        print(f"answers with and without taps: identical={report.identical} over {report.tensors} tensors")


if __name__ == "__main__":
    main()
