"""What steady depth costs beside a forward of the host that it hangs on; for steady.py."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from sized_hosts import clip_vit_b16
from turns import PAUSE_S, seconds, spread

from spaceclip_plugin import DepthMap
from spaceclip_plugin.steady import Look, SteadyDepth
from spaceclip_worlds.clip import ClipFrame
from spaceclip_worlds.render.tabletop_clip import TabletopClip

WARM_UP = 3
LOOK, WITHOUT, WITH = "look", "without_places", "with_places"


def cost(rounds: int, threads: int) -> dict[str, Any]:
    """Times over that of the host's forward of the same round, of a camera that is carried round a rendered tabletop.

    The host is a tower of CLIP ViT-B/16's size with random weights; depth is true but for noise, so that a video goes
    on as it does with a good head. A key frame is one that the scale is learnt from.
    """
    torch.set_num_threads(threads)
    host = clip_vit_b16()
    frames = TabletopClip(rounds + WARM_UP).frames()
    steady = {WITHOUT: SteadyDepth(), WITH: SteadyDepth()}
    generator = torch.Generator().manual_seed(0)
    ratios: dict[str, list[float]] = {LOOK: [], WITHOUT: [], WITH: []}
    steps, keys, resets, key = [], [], 0, None
    with torch.no_grad():
        for turn, frame in enumerate(frames):
            pixels, depth = _pixels(frame), _depth(frame, turn, generator)
            kept: dict[str, Any] = {}
            time.sleep(PAUSE_S)
            step = seconds(lambda: kept.update(tokens=host(pixels).last_hidden_state))  # noqa: B023 (called at once)
            hidden = kept["tokens"][:, 1:].transpose(1, 2).reshape(1, -1, 14, 14)
            took = {LOOK: seconds(lambda: kept.update(look=Look.of(pixels, hidden)))}  # noqa: B023
            for way in (WITHOUT, WITH) if turn % 2 else (WITH, WITHOUT):
                place = frame.camera_to_world if way == WITH else None
                took[way] = seconds(lambda: kept.update(depth=steady[way].update(depth, kept["look"], place)))  # noqa: B023
                if way == WITH and turn >= WARM_UP:
                    resets += kept["depth"].steady[0].reset is not None
            newest = steady[WITH].state_dict()["videos"][0].get("key_place")
            if turn >= WARM_UP:
                steps.append(1e3 * step)
                for name, own in took.items():
                    ratios[name].append(own / step)
                if newest is not None and (key is None or not torch.equal(newest, key)):
                    keys.append(took[WITH] / step)
            key = newest
    return {
        "threads": threads,
        "host_ms": spread(steps, 1),
        "over_host": {name: spread(values, 4) for name, values in ratios.items()},
        "key_frames": len(keys),
        "key_frames_90th_percentile": round(float(np.quantile(keys, 0.9)), 4),
        "resets": resets,
    }


def _pixels(frame: ClipFrame) -> torch.Tensor:
    image = torch.from_numpy(np.ascontiguousarray(frame.image)).permute(2, 0, 1)[None]
    return (image.float() / 255 - 0.45) / 0.27


def _depth(frame: ClipFrame, turn: int, generator: torch.Generator) -> DepthMap:
    truth = torch.from_numpy(frame.depth_m)[None]
    known = truth.isfinite()
    noise = torch.nn.functional.interpolate(
        0.1 * torch.randn(1, 1, 14, 14, generator=generator), size=truth.shape[1:], mode="bilinear"
    )[0]
    depth_m = truth.where(known, 1.0) * noise.exp()
    return DepthMap(
        depth_m,
        known,
        camera="table",
        frame=turn,
        step=turn,
        image_hw=(truth.shape[1], truth.shape[2]),
        trained=True,
        uncertainty_m=0.15 * depth_m,
        intrinsics=frame.intrinsics,
    )
