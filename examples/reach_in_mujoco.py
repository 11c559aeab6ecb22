"""An arm reaches for a block, and lifts it, through depth from its policy's own vision tower.

The block stands on a stand of unknown height, so only depth tells where it is. A head on the policy's frozen tower
predicts it, and how uncertain it is; the table, whose place is known, sets its scale. A first look from beside the
table brings the hand above the block, two from the wrist are weighed against it by their uncertainty, and say where to
close the hand. Where they leave that uncertain, it stays up.

    MUJOCO_GL=egl python examples/reach_in_mujoco.py 50     # episodes; needs pip install 'spaceclip-plugin[sim]'
"""

from __future__ import annotations

import statistics
import sys

from spaceclip_plugin import DepthMap, attach_depth_head
from spaceclip_worlds.arm.embedded import load_arm_head
from spaceclip_worlds.arm.episode import TABLE, TRUE, attempt, source_of
from spaceclip_worlds.arm.known_table import aligned_to_table
from spaceclip_worlds.arm.observation import Observation
from spaceclip_worlds.arm.policy import load_arm_policy
from spaceclip_worlds.arm.world import ArmWorld


def main(episodes: int) -> None:
    """Print how the same episodes end with several sources of depth."""
    policy = load_arm_policy()
    with attach_depth_head(policy, load_arm_head()) as attachment:

        def predicted(seen: Observation, camera: str) -> DepthMap:
            policy.select_action([seen.image])
            return attachment.read()[-1]

        def aligned(seen: Observation, camera: str) -> DepthMap:
            return aligned_to_table(predicted(seen, camera), seen)  # align_to_plane with the table's place

        sources = {
            "ground truth": source_of(TRUE),
            "predicted, aligned": aligned,
            "predicted": predicted,
            "none: on the table": source_of(TABLE),
        }
        print(f"{'depth':20}{'reached':>9}{'lifted':>8}{'collided':>10}{'error (cm)':>12}")
        for name, see in sources.items():
            tried = [attempt(seed, see) for seed in range(episodes)]
            reached, lifted, hit = (sum(getattr(a, k) for a in tried) for k in ("reached", "lifted", "collided"))
            error_cm = 100.0 * statistics.median(each.error_m for each in tried)
            print(f"{name:20}{reached:9}{lifted:8}{hit:10}{error_cm:12.1f}", flush=True)
        with ArmWorld(0) as world:
            image = world.observe().image
        report = attachment.verify(lambda: policy.select_action([image]))
    print(f"actions with and without taps: identical={report.identical}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10)
