"""Watch a policy with a graft that reads its predicted depth: what it sees, how far, and where its blocks look.

    MUJOCO_GL=egl python benchmarks/graft_watch.py --weights deit_tiny_timm.safetensors --runs DIR --rrd watch.rrd
    MUJOCO_GL=egl python benchmarks/graft_watch.py --weights FILE --runs DIR --picture attention.png

DIR is that of `graft_policies.py`, after its part `train`. A recording for Rerun (the extra `[viz]`) has images, depth,
uncertainty, points and attention of every picture that the policy saw; the picture shows a few of them.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from graft_demos import CAMERA, MOST_STEPS, PREDICTED, state_of, to_hand
from graft_policies import FIRST_EPISODE, Setup, attached, live_task
from PIL import Image

from spaceclip_plugin.bridges.rerun import RerunSink
from spaceclip_plugin.depth.colours import colorize_depth
from spaceclip_plugin.graft import DepthGraft, spotlit

SHOWN = 3  # pictures of an episode


def watch(setup: Setup, count: int, seed: int, episode: int, sink: RerunSink | None) -> list[npt.NDArray[np.uint8]]:
    """Let the policy act in one episode; of each picture that it saw: image, depth and attention, side by side."""
    policy, panels = setup.host(count, seed), []
    graft = DepthGraft.from_pretrained(setup.folder(count, seed) / PREDICTED)
    with live_task() as task, attached(policy) as attachment, graft.attach(policy, attachment) as live:
        live.watching = True
        task.start(episode)
        while not task.success and task.steps < MOST_STEPS:
            image, pose = task.image(), task.pose()
            live.place({CAMERA: to_hand(pose, task.observation)})
            with torch.no_grad():
                actions = policy(torch.from_numpy(image)[None], torch.from_numpy(state_of(task.observation))[None])[0]
            [depth], attention = live.depth, live.attention
            if attention is None:
                raise SystemExit("no block of the policy has read the bank")
            cells = attention.cells[CAMERA][0]
            if sink is not None:
                sink.log(depth, image=image, pose=pose, attention=cells)
            coloured = colorize_depth(depth.depth_m[0].numpy(), depth.valid[0].numpy())
            panels.append(np.concatenate([image, coloured, spotlit(image, cells)], axis=1))
            print(f"step {task.steps}: {float(attention.nothing[0]):.2f} of the attention drew nothing", flush=True)
            for action in actions.numpy():
                task.step(action)
                if task.success:
                    break
        print("done" if task.success else "failed", f"after {task.steps} steps")
    return panels


def main(argv: Sequence[str] | None = None) -> None:
    """Act, and write what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--count", type=int, default=50, help="demonstrations that the policy learnt from")
    parser.add_argument("--seed", type=int, default=0, help="of the policy")
    parser.add_argument("--episode", type=int, default=FIRST_EPISODE)
    parser.add_argument("--rrd", type=Path)
    parser.add_argument("--picture", type=Path)
    args = parser.parse_args(argv)
    with nullcontext() if args.rrd is None else RerunSink(args.rrd) as sink:
        panels = watch(Setup(args.runs, args.weights), args.count, args.seed, args.episode, sink)
    if args.picture is not None:
        chosen = [panels[index] for index in np.linspace(0, len(panels) - 1, SHOWN).round().astype(int)]
        Image.fromarray(np.concatenate(chosen)).save(args.picture, optimize=True)


if __name__ == "__main__":
    main()
