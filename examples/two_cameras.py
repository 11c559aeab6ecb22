"""One policy, two cameras: a block that a screen hides from one camera is found through the other.

The policy runs its tower once per camera; depth is read by the cameras' names, scaled to the table, whose place is
known, and turned into points of one world with each camera's pose.

    python examples/two_cameras.py 50     # tables; nothing is downloaded, no simulator
"""

from __future__ import annotations

import math
import sys

import numpy as np

from spaceclip_plugin import attach_depth_head
from spaceclip_plugin.depth.alignment import align_to_plane
from spaceclip_worlds.arm.embedded import load_arm_head
from spaceclip_worlds.arm.policy import load_arm_policy
from spaceclip_worlds.arm.two_camera_loop import CAMERAS, FOUND_M, agreement_m, find_block
from spaceclip_worlds.arm.two_cameras import SIDES, TwoCameraTable


def main(tables: int) -> None:
    """Print how often each camera, and both together, find the block."""
    policy = load_arm_policy()
    found = {(kind, name): 0 for kind in ("ground truth", "predicted") for name in CAMERAS}
    apart_m: dict[str, list[float]] = {"ground truth": [], "predicted": []}
    with attach_depth_head(policy, load_arm_head(), cameras=SIDES) as attachment:
        for seed in range(tables):
            table = TwoCameraTable(seed)
            seen = {side: table.observe(side) for side in SIDES}
            policy.select_action([seen[side].image for side in SIDES])
            predicted = {}
            for depth in attachment.read():  # one per camera
                observation = seen[depth.camera]
                scale = align_to_plane(depth, observation.intrinsics, plane=observation.table)
                predicted[depth.camera] = scale.apply(depth)
            true = {side: observation.depth_map() for side, observation in seen.items()}
            for kind, depths in (("ground truth", true), ("predicted", predicted)):
                apart_m[kind].append(agreement_m(seen, depths))
                for name, sides in CAMERAS.items():
                    place = find_block({side: seen[side] for side in sides}, depths)
                    found[kind, name] += place is not None and math.dist(place, table.block_m) <= FOUND_M
        images = [observation.image for observation in seen.values()]
        report = attachment.verify(lambda: policy.select_action(images))
    for kind, distances in apart_m.items():
        counts = ", ".join(f"{name} {found[kind, name]}" for name in CAMERAS)
        print(f"{kind}: found on {tables} tables: {counts}; surfaces agree to {100 * np.median(distances):.1f} cm")
    print(f"actions with and without taps: identical={report.identical}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10)
