"""A video in one picture: one row of its images, time downward, depth in colour; for steady.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from steady_clips import SIDE, Seen
from torch import Tensor

from spaceclip_plugin.depth.colours import Colours, colorize_depth

ROW = SIDE // 2
FRAME_PX, GAP_PX, TITLE_PX = 5, 8, 22
INK, PAPER = (32, 32, 36), (255, 255, 255)


def time_slice(seen: Seen, ways: Mapping[str, Sequence[Tensor]]) -> Colours:
    """(H, W, 3) uint8: a panel for each way, and one of the truth, all in the colours of one range."""
    truth, known = seen.truth_m[:, ROW].numpy(), seen.valid[:, ROW].numpy()
    near, far = (float(value) for value in np.percentile(truth[known], (1, 99)))
    panels = {name: (np.stack([depth_m[ROW].numpy() for depth_m in maps]), known | True) for name, maps in ways.items()}
    panels["truth"] = (truth, known)
    height = TITLE_PX + FRAME_PX * len(seen)
    page = Image.new("RGB", ((SIDE + GAP_PX) * len(panels) - GAP_PX, height), PAPER)
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(13)
    for number, (title, (metres, valid)) in enumerate(panels.items()):
        left = number * (SIDE + GAP_PX)
        draw.text((left, 3), title, INK, font=font)
        colours = colorize_depth(metres, valid, depth_range_m=(near, far))
        page.paste(Image.fromarray(colours.repeat(FRAME_PX, axis=0)), (left, TITLE_PX))
    picture: Colours = np.asarray(page)
    return picture


def written(picture: Colours, path: Path) -> None:
    """As a PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)
