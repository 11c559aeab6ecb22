"""A LeRobot policy whose pipelines carry depth: saved, loaded by LeRobot's factory, and driven with a guard.

The weights of policy and head are small and random, and the thresholds are set around what the head says.
    pip install -e ".[lerobot]" -e examples/lerobot_env_rover -e adapters/lerobot_policy_spaceclip
    python examples/lerobot_depth_guard.py smolvla my-policy     # or pi0, which wants LeRobot 0.6 and Python 3.12
    lerobot-eval --policy.path=my-policy --env.type=rover --eval.n_episodes=2 --eval.batch_size=2
"""

import sys

import gymnasium
import torch
from lerobot.envs.utils import preprocess_observation
from lerobot.policies.factory import make_pre_post_processors
from lerobot_env_rover.tiny_policies import build

from spaceclip_plugin import DepthHead, attach_depth_head
from spaceclip_plugin.bridges.lerobot import DepthGuardStep, DepthProcessorStep, add_depth
from spaceclip_plugin.guard import DepthGuard, GuardLimits


def main(kind: str, folder: str) -> None:
    """Save a policy with both steps to `folder`, load its pipelines again and drive a few steps."""
    env = gymnasium.make("gym_rover/Drive-v0", disable_env_checker=True)
    policy, pre, post = build(kind, folder)

    def seen(observation: dict) -> dict:
        return {**preprocess_observation(observation), "task": [env.unwrapped.task_description]}

    def first_action(batch: dict) -> torch.Tensor:
        policy.reset()
        torch.manual_seed(0)
        return policy.select_action(batch)

    head = DepthHead.for_tower(policy).eval()
    with attach_depth_head(policy, head) as depth:
        expected = first_action(pre(seen(env.reset(seed=0)[0])))
        near_m = float(depth.read()[0].depth_m.quantile(0.02))
    guard = DepthGuard(GuardLimits(stop_below_m=0.99 * near_m, slow_below_m=1.02 * near_m, allow_untrained=True))
    guards = DepthGuardStep(head, actions="velocity", guard=guard)
    add_depth(pre, post, DepthProcessorStep(head, fresh=True, allow_untrained=True), guards, policy=policy)
    for part in (policy, pre, post):
        part.save_pretrained(folder)
    before, behind = {"spaceclip_depth": {"policy": policy}}, {"spaceclip_depth_guard": {"policy": policy}}
    with_depth, guarded = make_pre_post_processors(
        policy.config, pretrained_path=folder, preprocessor_overrides=before, postprocessor_overrides=behind
    )
    observation = env.reset(seed=0)[0]
    print(f"identical={torch.equal(first_action(with_depth(seen(observation))), expected)}")
    for _ in range(12):
        action = policy.select_action(with_depth(seen(observation)))
        sent, decision = guarded(action)[0], guarded.steps[-1].decisions[0]
        print(f"{action[0].tolist()} -> {decision.reaction} {sent.tolist()}: {decision.reason}")
        observation = env.step((sent + torch.tensor([0.0, 0.3])).numpy())[0]  # turned on, to see more
    print(dict(guarded.steps[-1].counts))


if __name__ == "__main__":
    main(*sys.argv[1:])
