"""How the rover's embedded files were made: clone a policy, freeze it, train a depth head on its tower.

    python examples/embedded/train_rover.py --out rover-weights     # about twenty minutes on one CPU core

Arenas are rendered from seeds far from those of the closed-loop tables. Everything follows from `--seed`; other
machines and thread counts differ in the last bits, and so will the weights.
"""

from __future__ import annotations

import argparse
import math
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import smooth_l1_loss

from spaceclip_plugin import DepthHead, attach_depth_head
from spaceclip_plugin.depth import PanelRow, depth_panel, write_png
from spaceclip_plugin.evaluation import Protocol, evaluate, mean_metrics, predict
from spaceclip_plugin.training import DepthTrainer, Recipe
from spaceclip_worlds.arm.embedded import tower_note
from spaceclip_worlds.rover.embedded import load_policy, save_policy
from spaceclip_worlds.rover.instruction import encode
from spaceclip_worlds.rover.lessons import Frame, frames_of, lesson
from spaceclip_worlds.rover.policy import GRID_HW, WIDTH, RoverPolicy, to_pixels
from spaceclip_worlds.rover.world import MAX_SPEED_MPS, MAX_TURN_RPS

FIRST_SEED = {"train": 1_000_000, "validation": 2_000_000, "test": 3_000_000}
TAPS, CHANNELS = (1, 2, 3, 5), (96, 48)
PROTOCOL = Protocol(name="rover", description="rendered arenas, every pixel", depth_scale=1000.0, max_depth_m=10.0)


def collect(split: str, arenas: int, seed: int) -> list[Frame]:
    """Frames of many arenas."""
    generator, started = np.random.default_rng([seed, FIRST_SEED[split]]), time.perf_counter()
    first = FIRST_SEED[split] + 10_000 * seed
    frames = [frame for number in range(arenas) for frame in frames_of(first + number, generator)]
    print(f"{split}: {len(frames)} frames of {arenas} arenas in {time.perf_counter() - started:.0f} s", flush=True)
    return frames


def batches(
    frames: list[Frame], size: int, generator: np.random.Generator, *, mirror: bool
) -> Iterator[tuple[Tensor, ...]]:
    """(pixels, words, place, told, parts) of all frames in random order, half of them mirrored where `mirror`."""
    order = generator.permutation(len(frames))
    for start in range(0, len(order) - size + 1, size):
        lessons = [
            lesson(frames[i], generator, mirrored=mirror and bool(generator.random() < 0.5))
            for i in order[start : start + size]
        ]
        words = torch.tensor([encode(each.instruction) for each in lessons])
        place, told = (
            torch.from_numpy(np.stack([getattr(each, name) for each in lessons])) for name in ("place", "told")
        )
        parts = torch.from_numpy(np.stack([each.parts for each in lessons]))
        yield to_pixels([each.image for each in lessons]), words, place, told, parts


def clone_policy(frames: list[Frame], epochs: int, seed: int) -> RoverPolicy:
    """Teach a fresh policy where the named goal is and what the naive expert would do."""
    torch.manual_seed(seed)
    policy, generator, size = RoverPolicy(), np.random.default_rng(seed), 32
    start_smooth(policy)
    steps = epochs * (len(frames) // size)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=steps, pct_start=0.1)
    for epoch in range(epochs):
        started, losses = time.perf_counter(), []
        for pixels, words, place, told, parts in batches(frames, size, generator, mirror=True):
            with torch.autocast("cpu", torch.bfloat16):
                output = policy(pixels, words)
            seen = 1.0 - place[:, :1]
            where = -(place * output.place).sum(dim=-1).mean()
            act = smooth_l1_loss(output.action, told[:, :2], beta=0.1)
            aim = (seen * smooth_l1_loss(output.told[:, 2:], told[:, 2:], beta=0.1, reduction="none")).mean()
            what = -(parts * output.parts).sum(dim=-1).mean()
            loss = where + 2.0 * act + 2.0 * aim + what
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            losses.append((where.item(), what.item(), act.item(), aim.item()))
        where_loss, what_loss, act_loss, aim_loss = np.mean(losses, axis=0)
        print(
            f"  epoch {epoch + 1} ({time.perf_counter() - started:.0f} s): where {where_loss:.3f} what {what_loss:.3f} "
            f"action {act_loss:.4f} aim {aim_loss:.4f}", flush=True,
        )  # fmt: skip
    return policy.eval().requires_grad_(False)


@torch.no_grad()
def start_smooth(policy: RoverPolicy) -> None:
    """Position embeddings that vary smoothly from patch to patch, as long training makes them."""
    [positions] = (part for name, part in policy.tower.named_modules() if name.endswith("position_embedding"))
    rows, columns = GRID_HW
    place = torch.cartesian_prod((torch.arange(rows) + 0.5) / rows, (torch.arange(columns) + 0.5) / columns)
    phase = place[:, :, None] * torch.pi * 2.0 ** torch.linspace(-1, 3, WIDTH // 4)
    positions.weight.copy_(0.2 * torch.cat([phase.sin(), phase.cos()], dim=-1).flatten(1))


@torch.no_grad()
def score_policy(policy: RoverPolicy, frames: list[Frame]) -> None:
    """Print how well the policy finds what is named on arenas it never saw."""
    right, bearing, distance, speed, turn = [], [], [], [], []
    for pixels, words, place, told, _ in batches(frames, 32, np.random.default_rng(0), mirror=False):
        output = policy(pixels, words)
        seen = place[:, 0] == 0
        right.append((output.in_sight > 0.5) == seen)
        error = (output.told - told).abs()[seen]
        for values, column in zip((speed, turn, bearing, distance), error.unbind(dim=-1), strict=True):
            values.append(column)
    medians = [float(torch.cat(values).median()) for values in (bearing, distance, speed, turn)]
    print(
        f"policy on unseen arenas: in sight or not right {float(torch.cat(right).float().mean()):.3f}; median errors: "
        f"bearing {math.degrees(medians[0]):.1f} deg, distance {100 * medians[1]:.0f} %, "
        f"speed {medians[2]:.3f} of {MAX_SPEED_MPS} m/s, turn {medians[3]:.3f} of {MAX_TURN_RPS} rad/s", flush=True,
    )  # fmt: skip


def train_head(policy: RoverPolicy, frames: dict[str, list[Frame]], epochs: int, run: Path, note: str) -> DepthHead:
    """A small head on the frozen policy's tower."""
    samples = {
        split: [frame.sample(f"{split} frame {i}") for i, frame in enumerate(kept)] for split, kept in frames.items()
    }
    recipe = Recipe(epochs=epochs, batch_size=16, learning_rate=3e-3, ema_decay=0.995, views=2, target_side=None)
    torch.manual_seed(recipe.seed)
    options = {"taps": TAPS, "channels": CHANNELS, "convolutions": (2, 1), "attention": 1}
    head = DepthHead.for_tower(policy, options=options, base_model=note)
    trainer = DepthTrainer(policy, head, recipe=recipe, protocol=PROTOCOL)
    trained_on = f"{len(samples['train'])} rendered frames of rover arenas (examples/embedded/train_rover.py)"
    result = trainer.fit(samples["train"], samples["validation"], run, trained_on=trained_on)
    print(
        f"head: {sum(p.numel() for p in result.head.parameters())} parameters, best epoch {result.best_epoch}, "
        f"validation AbsRel {result.validation.abs_rel:.3f}, cached in {result.seconds_caching:.0f} s, "
        f"trained in {result.seconds_training:.0f} s", flush=True,
    )  # fmt: skip
    return result.head


def score_head(policy: RoverPolicy, folder: Path, train: list[Frame], test: list[Frame], picture: Path) -> None:
    """Print the head's depth on arenas of another seed beside two guesses that look at no picture; draw some."""
    samples = [frame.sample(f"test frame {i}") for i, frame in enumerate(test)]
    depths = np.stack([frame.seen.depth_m for frame in train])
    guesses = {
        "constant median": np.full(depths.shape[1:], np.median(depths), np.float32),
        "per-pixel mean": depths.mean(axis=0),
    }
    with attach_depth_head(policy, folder) as attachment:
        rows = {"predicted": evaluate(attachment, samples, protocol=PROTOCOL).mean}
        shown = samples[:: max(1, len(samples) // 10)][:10]
        depth = predict(attachment, [sample.image for sample in shown], output_hw=shown[0].depth_m.shape)
    for name, guess in guesses.items():
        rows[name] = mean_metrics([PROTOCOL.score(torch.from_numpy(guess), sample) for sample in samples])
    for name, mean in rows.items():
        print(f"  {name}: AbsRel {mean.abs_rel:.3f} RMSE {mean.rmse:.3f} m delta1 {mean.delta1:.3f}", flush=True)
    panels = [PanelRow(s.image, depth.depth_m[i].numpy(), s.depth_m) for i, s in enumerate(shown)]
    write_png(picture, depth_panel(panels, tile_width_px=224))


def main() -> None:
    """Collect, clone, freeze, train, save, measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("rover-weights"), metavar="DIR")
    parser.add_argument("--arenas", type=int, default=260, help="training arenas; a tenth as many validate and test")
    parser.add_argument("--policy-epochs", type=int, default=6)
    parser.add_argument("--head-epochs", type=int, default=8)
    parser.add_argument("--policy", type=Path, metavar="FILE", help="take this policy and train a head only")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.out.exists() and any(args.out.iterdir()):
        parser.error(f"--out {args.out} is not empty, and what is in it would be replaced; choose another folder")
    few = max(args.arenas // 10, 4)
    frames = {
        split: collect(split, args.arenas if split == "train" else few, args.seed) for split in FIRST_SEED
    }  # fmt: skip
    file = args.out / "policy.safetensors"
    if args.policy is None:
        save_policy(clone_policy(frames["train"], args.policy_epochs, args.seed), file)
    else:
        file.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(args.policy, file)
    policy = load_policy(file)  # what the head will meet: weights rounded to half precision
    score_policy(policy, frames["test"])
    note = tower_note(file)
    with tempfile.TemporaryDirectory() as run:
        known = {split: frames[split] for split in ("train", "validation")}
        head = train_head(policy, known, args.head_epochs, Path(run), note)
    head.half().save_pretrained(args.out / "head")
    score_head(policy, args.out / "head", frames["train"], frames["test"], args.out / "depth.png")
    total = sum(path.stat().st_size for path in args.out.rglob("*") if path.suffix in (".json", ".safetensors"))
    print(f"{total / 1e6:.2f} MB in {args.out}")


if __name__ == "__main__":
    main()
