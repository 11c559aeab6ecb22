"""A rover follows an order; depth from its policy's own vision tower keeps it from running into things.

The policy drives straight to what it is told and ignores obstacles. A depth head, attached to its frozen tower, turns
what the policy sees anyway into metres, and a filter turns or stops the rover where something stands in the way.

    python examples/safety_filter.py 50     # episodes; nothing is downloaded
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from spaceclip_plugin import DepthMap, attach_depth_head
from spaceclip_worlds.rover.embedded import load_head, load_policy
from spaceclip_worlds.rover.episode import true_depth
from spaceclip_worlds.rover.policy import RoverPolicy
from spaceclip_worlds.rover.steering import DepthSafetyFilter
from spaceclip_worlds.rover.world import Observation, Outcome, RoverWorld


def drive(seed: int, policy: RoverPolicy, depth_of: Callable[[Observation], DepthMap] | None) -> Outcome:
    """One closed loop: look, act, filter, step."""
    world, guard = RoverWorld(seed), DepthSafetyFilter()
    policy.reset()
    while world.outcome is None:
        seen = world.observe()
        action = policy.select_action(seen)
        if depth_of is not None:
            depth = depth_of(seen)
            steered = guard(action, depth, intrinsics=seen.intrinsics, camera=seen.camera, pose=seen.pose)
            action = steered.action
        world.step(action)
    return world.outcome


def main(episodes: int) -> None:
    """Print how the same episodes end with true depth, predicted depth and no depth."""
    policy = load_policy()
    print(f"{'depth':14}{'goal':>6}{'collision':>11}{'timeout':>9}")
    with attach_depth_head(policy, load_head()) as attachment:
        sources = {"ground truth": true_depth, "predicted": lambda seen: attachment.read()[-1], "none": None}
        for name, depth_of in sources.items():
            ended = [drive(seed, policy, depth_of) for seed in range(episodes)]
            goal, collision, timeout = (ended.count(outcome) for outcome in Outcome)
            print(f"{name:14}{goal:6}{collision:11}{timeout:9}", flush=True)
        seen = RoverWorld(0).observe()
        report = attachment.verify(lambda: (policy.reset(), policy.select_action(seen))[1])
    print(f"actions with and without taps: identical={report.identical}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10)
