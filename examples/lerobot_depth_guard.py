"""A LeRobot policy whose pipelines carry depth: saved, loaded by LeRobot's factory, and driven with a guard.

SmolVLA and pi0 are LeRobot's own classes with small random weights; so is the head, and thresholds are set around what
it says. Nothing is downloaded. With LeRobot and this project installed:

    pip install -e examples/lerobot_env_rover -e adapters/lerobot_policy_spaceclip
    python examples/lerobot_depth_guard.py smolvla my-policy     # or pi0
    lerobot-eval --policy.path=my-policy --env.type=rover --eval.n_episodes=2 --eval.batch_size=2
"""

import sys
import tempfile

import gymnasium
import torch
from lerobot.envs.utils import preprocess_observation
from lerobot.policies.factory import make_pre_post_processors
from lerobot_env_rover.tiny_policies import build

from spaceclip_plugin import DepthHead, attach_depth_head
from spaceclip_plugin.depth_guard import DepthGuard
from spaceclip_plugin.lerobot_steps import add_depth


def main(kind: str = "smolvla", folder: str | None = None) -> None:
    """Save a policy with both steps to `folder`, load its pipelines again and drive a few steps."""
    folder = folder or tempfile.mkdtemp()
    env = gymnasium.make("gym_rover/Drive-v0", disable_env_checker=True)
    policy, preprocessor, postprocessor = build(kind, folder)

    def seen(observation: dict) -> dict:
        return {**preprocess_observation(observation), "task": [env.unwrapped.task_description]}

    def first_action(batch: dict) -> torch.Tensor:
        policy.reset()
        torch.manual_seed(0)
        return policy.select_action(batch)

    head = DepthHead.for_tower(policy).eval()
    with attach_depth_head(policy, head) as depth:
        expected = first_action(preprocessor(seen(env.reset(seed=0)[0])))
        near_m = float(depth.read()[0].depth_m.quantile(0.02))
    guard = DepthGuard(stop_below_m=0.99 * near_m, slow_below_m=1.02 * near_m, allow_untrained=True)
    add_depth(preprocessor, postprocessor, head, guard=guard, actions="velocity", fresh=True)
    for part in (policy, preprocessor, postprocessor):
        part.save_pretrained(folder)
    with_depth, guarded = make_pre_post_processors(policy.config, pretrained_path=folder)
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
