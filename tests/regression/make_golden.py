"""Write the golden head of an architecture for the current file format: `make_golden.py ARCHITECTURE FORMAT`.

Run once per architecture and released format that it can need; the files stay for ever, and every later version must
read them and give the same depth.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from spaceclip_plugin import DepthHead, DepthHeadConfig
from spaceclip_plugin.head.space_clip.decoder import SpaceClipOptions
from spaceclip_plugin.head.tap_mixer import TapMixerOptions
from spaceclip_plugin.towers.identity.fingerprint import TowerFingerprint
from spaceclip_plugin.towers.identity.part_reader import BIASES, MATRICES, SCALES, Part
from spaceclip_plugin.towers.identity.weight_sketch import Sketch, SketchMaker
from spaceclip_plugin.towers.spec import TowerFeatures

GOLDEN = Path(__file__).with_name("golden")
OPTIONS = {
    "space-clip": SpaceClipOptions(semantic_taps=(6, 4, 2), structural_taps=(2, 1), channels=(8, 6, 4), film_hidden=6),
    "tap-mixer": TapMixerOptions(taps=(2, 4, 6), channels=(48, 12, 6), attention=1, convolutions=(1, 1, 1), pixels=0),
}
SINCE_4 = {"tap-mixer": {"pixels": 4}}
IMAGE_HW, OUTPUT_HW = (32, 40), (40, 56)


def features() -> TowerFeatures:
    """Two images of a tower of width 12, grid 4x5, patches of 8 pixels."""
    random = torch.Generator().manual_seed(7)
    hidden = {tap: torch.randn(2, 12, 4, 5, generator=random) for tap in range(1, 7)}
    context, pixels = torch.randn(2, 12, generator=random), torch.randn(2, 3, *IMAGE_HW, generator=random)
    return TowerFeatures(hidden, context, IMAGE_HW, pixels=pixels)


def fingerprint() -> TowerFingerprint | None:
    """Of a tower of six blocks that is nowhere."""
    random = torch.Generator().manual_seed(5)

    def sketch(*shape: int) -> Sketch:
        maker = SketchMaker(12)
        maker.add(torch.randn(*shape, generator=random))
        return maker.sketch

    blocks = [Part(f"block {n}", {MATRICES: sketch(48, 12), SCALES: sketch(24), BIASES: sketch(60)}) for n in range(6)]
    return TowerFingerprint.of([Part("input", {"12x48": sketch(12, 48), SCALES: sketch(12)}), *blocks])


def main(architecture: str, version: str) -> None:
    torch.manual_seed(3)
    newer = SINCE_4.get(architecture, {}) if int(version) >= 4 else {}
    config = DepthHeadConfig(
        options=dataclasses.replace(OPTIONS[architecture], **newer),
        width=12,
        blocks=6,
        image_mean=(0.5, 0.4, 0.3),
        image_std=(0.2, 0.3, 0.4),
        depth_range_m=(0.1, 20.0),
        base_model="a tower that is not there",
        base_model_revision="0123abc",
        trained_on="nothing: random numbers, kept to see that files stay readable",
        tower_fingerprint=fingerprint() if int(version) >= 2 else None,
        focal_length=(0.8, 1.1) if int(version) >= 3 else None,
        preparation="letterbox:bottom-right" if int(version) >= 5 else None,
    )
    head = DepthHead(config).eval()
    with torch.no_grad():
        for name, value in head.decoder.state_dict().items():
            if value.is_floating_point():
                noise = torch.rand(value.shape) if "running_var" in name else torch.randn(value.shape)
                value.add_(0.1 * noise)
        if int(version) >= 3:
            head.learn_familiarity(torch.randn(60, 1, 12))
        folder = head.save_pretrained(GOLDEN / f"format-{version}" / architecture)
        output = head(features(), OUTPUT_HW)
    found = {name: value for name, value in vars(output).items() if isinstance(value, torch.Tensor)}
    if head.familiarity is not None:
        tokens = features().hidden[head.familiarity.options.tap].mean(dim=(2, 3))
        found["distance"] = head.familiarity.distance(tokens)
    inputs = {f"hidden_{tap}": value for tap, value in features().hidden.items()}
    if head.uses_pixels:
        inputs["pixels"] = features().pixels
    save_file({**found, **inputs, "context": features().context}, folder / "golden.safetensors")
    sys.stdout.write(f"{folder}: {sorted(found)}, {dataclasses.asdict(config)['options']}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
