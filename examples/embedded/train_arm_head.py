"""How the arm's embedded depth head was made: pictures of random tables, a frozen tower, `DepthTrainer`.

    MUJOCO_GL=egl python examples/embedded/train_arm_head.py --out arm-head     # some ten minutes on one CPU core

`--out examples/spaceclip_worlds/arm/weights` replaces the package's own head, which has to be made anew whenever the
rover's policy is: the two share one tower.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch

from spaceclip_plugin import DepthHead, attach_depth_head
from spaceclip_plugin.evaluation import evaluate
from spaceclip_plugin.training import DepthTrainer, Recipe
from spaceclip_worlds.arm.embedded import tower_note
from spaceclip_worlds.arm.lessons import FIRST_SEED, PROTOCOL, samples_of
from spaceclip_worlds.arm.policy import load_arm_policy
from spaceclip_worlds.rover.embedded import POLICY_FILE


def main(arguments: list[str] | None = None) -> None:
    """Render, train, save, measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("arm-head"), metavar="DIR")
    parser.add_argument("--tables", type=int, default=240, help="training tables; a tenth as many validate and test")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--policy", type=Path, default=POLICY_FILE, metavar="FILE", help="a rover's policy")
    args = parser.parse_args(arguments)
    if args.out.exists() and any(args.out.iterdir()):
        parser.error(f"--out {args.out} is not empty, and what is in it would be replaced; choose another folder")
    few = max(args.tables // 10, 2)
    samples = {split: samples_of(split, args.tables if split == "train" else few) for split in FIRST_SEED}
    recipe = Recipe(epochs=args.epochs, batch_size=16, learning_rate=3e-3, views=2, target_side=None)
    policy = load_arm_policy(args.policy)
    note = f"{len(samples['train'])} pictures of random tables (examples/embedded/train_arm_head.py)"
    torch.manual_seed(recipe.seed)
    shape = {"taps": (1, 2, 3, 5), "channels": (96, 48), "convolutions": (2, 1), "attention": 1}
    head = DepthHead.for_tower(policy, options=shape, base_model=tower_note(args.policy))
    with tempfile.TemporaryDirectory() as run:
        trainer = DepthTrainer(policy, head, recipe=recipe, protocol=PROTOCOL)
        result = trainer.fit(samples["train"], samples["validation"], Path(run) / "run", trained_on=note)
    result.head.half().save_pretrained(args.out / "head")
    print(f"best epoch {result.best_epoch}, cached {result.seconds_caching:.0f} s, {result.seconds_training:.0f} s")
    with attach_depth_head(policy, args.out / "head") as attachment:
        for kind in (" table", " wrist", "two cameras"):
            chosen = [sample for sample in samples["test"] if kind in sample.name]
            mean = evaluate(attachment, chosen, protocol=PROTOCOL).mean
            print(f"{kind.strip()}: AbsRel {mean.abs_rel:.3f} of {len(chosen)} unseen pictures", flush=True)


if __name__ == "__main__":
    main()
