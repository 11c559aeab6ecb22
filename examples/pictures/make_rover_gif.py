"""The moving picture of the README: a rover's photo, the true depth and what its policy's own tower says, over time.

python examples/pictures/make_rover_gif.py                     # writes examples/pictures/rover.gif
python examples/pictures/make_rover_gif.py --seed 3 --out drive.gif
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from spaceclip_plugin import attach_depth_head
from spaceclip_plugin.depth import PanelRow, depth_panel
from spaceclip_plugin.depth.colours import DEPTH_TABLE
from spaceclip_worlds.rover.embedded import HEAD_FOLDER, load_head, load_policy
from spaceclip_worlds.rover.steering import DepthSafetyFilter
from spaceclip_worlds.rover.world import STEP_S, RoverWorld

MAX_BYTES = 1_500_000
DEPTH_RANGE_M = (0.3, 5.0)
TILE_WIDTH_PX = 176


def drive(seed: int, head: Path) -> Iterator[np.ndarray]:
    """One picture per step of an episode that predicted depth keeps from running into things."""
    policy, world, guard = load_policy(), RoverWorld(seed), DepthSafetyFilter()
    policy.reset()
    with attach_depth_head(policy, load_head(head)) as attachment:
        while world.outcome is None:
            seen = world.observe()
            action = policy.select_action(seen)
            depth = attachment.read()[-1]
            row = PanelRow(seen.image, depth.depth_m[0].numpy(), seen.depth_m, depth.valid[0].numpy())
            notes = [f"“{seen.instruction}”", f"{world.time_s:.1f} s"]
            yield depth_panel(
                [row], depth_range_m=DEPTH_RANGE_M, tile_width_px=TILE_WIDTH_PX, show_error=False, notes=notes
            )
            steered = guard(action, depth, intrinsics=seen.intrinsics, camera=seen.camera, pose=seen.pose)
            world.step(steered.action)
    print(f"seed {seed}: {world.outcome.value} after {world.time_s:.1f} s, {world.steps} steps")


def write_gif(path: Path, pictures: list[np.ndarray], *, frame_s: float) -> None:
    """All pictures in one palette, so that what does not change between two costs nothing; the last one stays."""
    photos = np.concatenate([each[:, : TILE_WIDTH_PX + 12] for each in pictures[:: max(1, len(pictures) // 8)]])
    # The octree keeps rare colours, such as a small goal's; the first, median cut, would make it grey.
    seen = Image.fromarray(photos).quantize(112, Image.Quantize.FASTOCTREE).getpalette() or []
    colours = [*seen[: 3 * 112], *DEPTH_TABLE[::2].reshape(-1).tolist()]
    palette = Image.new("P", (1, 1))
    palette.putpalette(colours + colours[:3] * (256 - len(colours) // 3))
    frames = [Image.fromarray(each).quantize(palette=palette, dither=Image.Dither.NONE) for each in pictures]
    durations_ms = [round(1000 * frame_s)] * (len(frames) - 1) + [1500]
    path.parent.mkdir(parents=True, exist_ok=True)
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=durations_ms, loop=0)


def main() -> None:
    """Drive, and leave frames out until the file is small enough."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=4_000_003, help="of the episode")
    parser.add_argument("--head", type=Path, default=HEAD_FOLDER, metavar="DIR")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "rover.gif")
    args = parser.parse_args()
    if args.out.exists() and args.out != parser.get_default("out"):
        parser.error(f"--out {args.out} is there already, and would be replaced; choose another name")
    pictures = list(drive(args.seed, args.head))
    for every in range(1, len(pictures) + 1):
        kept = [*pictures[:-1:every], pictures[-1]]
        write_gif(args.out, kept, frame_s=max(0.08, 0.5 * STEP_S * every))
        if args.out.stat().st_size <= MAX_BYTES:
            break
    print(f"{args.out}: {len(kept)} of {len(pictures)} pictures, {args.out.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
