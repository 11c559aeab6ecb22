"""The moving picture of acting in Meta-World: a policy that predicted depth tells where things are, and one without.

    MUJOCO_GL=egl python examples/pictures/make_metaworld_gif.py --weights deit_tiny_timm.safetensors
    MUJOCO_GL=egl python examples/pictures/make_metaworld_gif.py --weights FILE --episodes drawer-open-v3:5000001

Needs the extra `[metaworld]`. Above, the policy's places are those of predicted depth; below, those of an empty table.
From left to right: what the camera sees, the true depth of it, and the head's.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from make_rover_gif import MAX_BYTES, TILE_WIDTH_PX, write_gif

from spaceclip_plugin.depth import PanelRow, depth_panel
from spaceclip_plugin.towers import load_host
from spaceclip_worlds.metaworld.acting import DEPTH_TASKS, DepthTask, LookAt, attempt, looks_at
from spaceclip_worlds.metaworld.live import LiveTask
from spaceclip_worlds.metaworld.told import FUSED, NONE, Teller, told

HOST = "timm:deit_tiny_patch16_224.fb_in1k"
DEPTH_RANGE_M = (0.6, 2.0)
EPISODES = ("drawer-open-v3:5000000", "button-press-topdown-wall-v3:5000001")
_EVERY = 8  # steps
_FRAME_S = 0.15


def episode(name: str, seed: int, teller: Teller) -> list[np.ndarray]:
    """Pictures of one episode, done twice."""
    task = DEPTH_TASKS[name]
    with LiveTask(name, seed, higher=task.higher) as live:
        looks = looks_at(live, task)
        places = told(task, looks, teller.depths(looks))
        runs = {source: _run(live, seed, task, places[source], teller) for source in (FUSED, NONE)}
    pictures = []
    for number in range(max(len(rows) for rows, _ in runs.values())):
        rows = [rows[min(number, len(rows) - 1)] for rows, _ in runs.values()]
        ended = [word if number >= len(rows) - 1 else "…" for rows, word in runs.values()]
        notes = [name, f"told by predicted depth of five looks: {ended[0]}", f"without depth: {ended[1]}"]
        pictures.append(
            depth_panel(rows, depth_range_m=DEPTH_RANGE_M, tile_width_px=TILE_WIDTH_PX, show_error=False, notes=notes)
        )
    print(f"{name} seed {seed}: predicted {runs[FUSED][1]}, none {runs[NONE][1]}")
    return pictures + pictures[-1:] * 6


def _run(
    live: LiveTask, seed: int, task: DepthTask, places: dict[str, np.ndarray], teller: Teller
) -> tuple[list[PanelRow], str]:
    rows: list[PanelRow] = []

    def watch() -> None:
        if live.steps % _EVERY and not live.success:
            return
        frame = live.render()
        [depth] = teller.depths([LookAt(frame, {})]).alone
        rows.append(
            PanelRow(
                frame.image,
                depth.depth_m[0].numpy(),
                np.where(np.isinf(frame.depth_m), 0.0, frame.depth_m),
                depth.valid[0].numpy(),
            )
        )

    return rows, "done" if attempt(live, seed, task, places, watch=watch) else "failed"


def main(argv: Sequence[str] | None = None) -> None:
    """Act, and leave frames out until the file is small enough."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, help="of the DeiT-Tiny")
    parser.add_argument("--episodes", nargs="+", default=EPISODES, metavar="TASK:SEED")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "metaworld.gif")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    with Teller(load_host(HOST, weights=args.weights)) as teller:
        asked = [each.partition(":") for each in args.episodes]
        pictures = [picture for name, _, seed in asked for picture in episode(name, int(seed), teller)]
    for every in range(1, len(pictures) + 1):
        kept = pictures[::every]
        write_gif(args.out, kept, frame_s=_FRAME_S * every)
        if args.out.stat().st_size <= MAX_BYTES:
            break
    print(f"{args.out}: {len(kept)} of {len(pictures)} pictures, {args.out.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
