"""Does a frozen policy act better when it reads its depth? Small policies of Meta-World with grafts, LoRA and controls.

    for part in collect train roll record; do
        MUJOCO_GL=egl python benchmarks/graft_policies.py $part --weights deit_tiny_timm.safetensors --runs DIR; done
    python benchmarks/graft_policies.py --table    (the table of spaceclip_plugin/graft/README.md, from the record)

Needs the extra `[metaworld]`. The tower is an ImageNet-supervised ViT (DeiT-Tiny), not CLIP; its depth is that of the
head `embedded:metaworld-deit-tiny`. What is in the folder of `--runs` is not done again, and `--share 0/2` does every
other job, for two processes. Hosts, grafts and LoRA alike keep the step with the lowest error on other demonstrations.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cloned_policy import Expert, Policy, action_error, fit, with_low_rank
from graft_demos import (
    CAMERA,
    CONTENTS,
    MOST_STEPS,
    PREDICTED,
    RAW,
    SHUFFLED,
    TASK,
    TRUE,
    Lessons,
    bank,
    collect,
    graft_for,
    lenses,
    set_heights,
    state_of,
    to_hand,
)
from graft_table import RECORD, table
from safetensors.torch import load_file, save_file
from torch import Tensor

from spaceclip_plugin import DepthAttachment, Intrinsics, attach_depth_head
from spaceclip_plugin._files import write_json
from spaceclip_plugin.attach.featured_read import read_with_features
from spaceclip_plugin.graft import DepthGraft
from spaceclip_plugin.graft.bank import Bank
from spaceclip_plugin.towers import load_host

HOST, HEAD = "timm:deit_tiny_patch16_224.fb_in1k", "embedded:metaworld-deit-tiny"
LENS = Intrinsics.from_fovy(np.radians(60.0), (224, 224))
COUNTS, SEEDS, EPISODES = (50, 200, 20), (0, 1, 2), 100
"""Demonstrations, in the order of what is worth most; seeds of hosts and of what learns on them; and episodes."""
LEARN, AGAIN, VALIDATE, TEST = range(220), range(1_000, 1_220), range(10_000, 10_034), range(11_000, 11_034)
"""Seeds of demonstrations: hosts learn from the first. On those there is little left to learn, so what learns on a host
learns from as many others, again."""
HELD_OUT = 30  # demonstrations of each of the two others
FIRST_EPISODE = 20_000
NONE, LORA = "none", "lora"
LEARNT = (PREDICTED, TRUE, RAW, SHUFFLED, LORA, "plane")
ROWS = (NONE, *LEARNT)
STEPS = {20: (100, 60), 50: (160, 100), 200: (320, 160)}
"""Of a host and of what learns on it, at most."""
BATCH, CHECKED_EVERY, RATE = 64, 20, 1e-3


@dataclass(frozen=True)
class Setup:
    """What every job needs: where the files are, and the tower's weights."""

    runs: Path
    weights: Path

    def folder(self, count: int, seed: int) -> Path:
        """Of what learns from so many demonstrations with one seed."""
        return self.runs / f"{count}-{seed}"

    def lessons(self, seeds: range, count: int) -> Lessons:
        """Demonstrations that were collected."""
        return Lessons.read(self.runs / "demonstrations", seeds, count)

    def policy(self) -> Policy:
        """A fresh one."""
        return Policy(load_host(HOST, weights=self.weights)).eval()

    def host(self, count: int, seed: int) -> Policy:
        """The frozen one that was trained."""
        policy = self.policy()
        policy.expert.load_state_dict(load_file(self.folder(count, seed) / "host.safetensors"))
        return policy.requires_grad_(False)


def attached(policy: Policy) -> DepthAttachment:
    """The head on the policy's tower."""
    return attach_depth_head(policy, HEAD, cameras=lenses(LENS), other_tower="error")


def part_collect(setup: Setup, args: argparse.Namespace) -> None:
    """Demonstrations to learn from, to choose by, and to score on."""
    policy = setup.policy()
    with live_task() as live, attached(policy) as attachment:
        config = graft_for(PREDICTED, policy, attachment).config
        for seeds in (VALIDATE, TEST, LEARN, AGAIN):
            collect(live, shared(args, seeds), setup.runs / "demonstrations", policy, attachment, config)


def part_train(setup: Setup, args: argparse.Namespace) -> None:
    """A host for each number of demonstrations and each seed, and what learns on it."""
    validate, test = (setup.lessons(seeds, HELD_OUT) for seeds in (VALIDATE, TEST))
    for count, seed in shared(args, [(count, seed) for count in args.counts for seed in args.seeds]):
        folder = setup.folder(count, seed)
        folder.mkdir(exist_ok=True)
        own, others = setup.lessons(LEARN, count), setup.lessons(AGAIN, count)
        for row in ROWS:
            if not (folder / f"{row}.json").is_file():
                torch.manual_seed(1000 * seed + count)
                policy = setup.policy() if row == NONE else setup.host(count, seed)
                steps = STEPS[count][row != NONE]
                learning = own if row == NONE else others
                found = learn(row, policy, (learning, validate, test), steps, folder)
                write_json(folder / f"{row}.json", found)
                print(count, seed, row, found, flush=True)


def learn(
    row: str, policy: Policy, lessons: tuple[Lessons, Lessons, Lessons], steps: int, folder: Path
) -> dict[str, Any]:
    """Train a host or what is on it, write it, and tell its errors on the third of the lessons."""
    learning, validation, test = lessons
    if row == NONE:
        policy.expert.mean.copy_(learning["state"].mean(dim=0))
        policy.expert.deviation.copy_(learning["state"].std(dim=0) + 1e-3)
        parameters = list(policy.expert.parameters())
        found = trained(policy.expert, [{"params": parameters, "lr": RATE}], learning, validation, steps)
        save_file(policy.expert.state_dict(), folder / "host.safetensors")
        return {**found, "parameters": sum(map(torch.numel, parameters)), "error": error_of(policy.expert, test)}
    with attached(policy) as attachment:
        graft = graft_for(row if row in CONTENTS else PREDICTED, policy, attachment)
        size = sum(map(torch.numel, graft.parameters()))
        if row == LORA:
            expert = with_low_rank(policy.expert, size)
            parameters = [each for each in expert.parameters() if each.requires_grad]
            found = trained(expert, [{"params": parameters, "lr": RATE}], learning, validation, steps)
            save_file(expert.state_dict(), folder / "lora.safetensors")
            return {**found, "parameters": sum(map(torch.numel, parameters)), "error": error_of(expert, test)}
        before = predictions(policy.expert, test)
        with graft.attach(policy, attachment) as live:
            give = giver(row, live.give)
            found = trained(policy.expert, graft.parameter_groups(RATE), learning, validation, steps, give, graft)
            graft.save_pretrained(folder / row)
            found |= {"parameters": size, "error": error_of(policy.expert, test, give)}
            if row == PREDICTED:  # what it does with a bank of another picture, and with none
                found["swapped"] = error_of(policy.expert, test, giver(SHUFFLED, live.give))
                found["off_is_none"] = torch.equal(predictions(policy.expert, test, giver(row, live.give, 0)), before)
    return found


Give = Callable[[Lessons, Tensor, torch.Generator], None]


def giver(row: str, take: Callable[[Bank], None], share: float = 1.0) -> Give:
    """Gives the banks of lessons to a live graft; or empty ones."""

    def give(lessons: Lessons, index: Tensor, generator: torch.Generator) -> None:
        made = lessons.bank(row, index, generator)
        take(Bank(made.look, made.place, made.camera, made.valid & bool(share)))

    return give


def trained(
    expert: Expert,
    groups: list[dict[str, Any]],
    learning: Lessons,
    validation: Lessons,
    steps: int,
    give: Give | None = None,
    graft: DepthGraft | None = None,
) -> dict[str, Any]:
    """Learn by the host's own loss, in the order of one generator; see `fit`."""
    generator = torch.Generator().manual_seed(torch.initial_seed())
    parts = [expert, *([] if graft is None else [graft])]

    def loss() -> Tensor:
        for part in parts:
            part.train()
        index = torch.randint(len(learning), (BATCH,), generator=generator)
        if give is not None:
            give(learning, index, generator)
        actions = expert(learning["tokens"][index].float(), learning["state"][index])
        return action_error(actions, learning["actions"][index], learning["known"][index])

    def checked() -> float:
        for part in parts:
            part.eval()
        return error_of(expert, validation, give)

    found = fit(groups, loss, checked, steps=steps, every=CHECKED_EVERY)
    for part in parts:
        part.eval()
    return {"step": found["step"], "validation": found["error"], "fitted": error_of(expert, learning, give)}


def predictions(expert: Expert, lessons: Lessons, give: Give | None = None) -> Tensor:
    """(N, CHUNK, 4) actions for all pictures; other banks are drawn the same every time."""
    generator, found = torch.Generator().manual_seed(0), []
    with torch.no_grad():
        for index in torch.arange(len(lessons)).split(128):
            if give is not None:
                give(lessons, index, generator)
            found.append(expert(lessons["tokens"][index].float(), lessons["state"][index]))
    return torch.cat(found)


def error_of(expert: Expert, lessons: Lessons, give: Give | None = None) -> float:
    """Mean absolute error of actions, which are in [-1, 1]."""
    return float(action_error(predictions(expert, lessons, give), lessons["actions"], lessons["known"]))


def part_roll(setup: Setup, args: argparse.Namespace) -> None:
    """The same episodes for every row."""
    wanted = [(count, seed, row) for count in args.counts for seed in args.seeds for row in args.rows]
    others = setup.lessons(TEST, HELD_OUT)  # whose banks the shuffled row gets
    with live_task() as live:
        for count, seed, row in shared(args, wanted):
            file = setup.folder(count, seed) / f"{row}-episodes.json"
            if file.is_file():
                continue
            with acting(setup.host(count, seed), row, setup.folder(count, seed), others) as act:
                done = [episode(live, act, FIRST_EPISODE + number) for number in range(args.episodes)]
            write_json(file, {"successes": "".join(str(int(success)) for success, _ in done),
                              "steps": [steps for _, steps in done]})  # fmt: skip
            print(count, seed, row, sum(success for success, _ in done), flush=True)


Act = Callable[[Any], Tensor]


@contextmanager
def acting(policy: Policy, row: str, folder: Path, others: Lessons) -> Iterator[Act]:
    """From a live task to (CHUNK, 4) actions; the row that reads its own depth does so by the public door."""
    generator = torch.Generator().manual_seed(0)

    def seen(live: Any) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(live.image())[None], torch.from_numpy(state_of(live.observation))[None]

    if row in (NONE, LORA):
        if row == LORA:
            size = DepthGraft.from_pretrained(folder / PREDICTED)
            policy.expert = with_low_rank(policy.expert, sum(map(torch.numel, size.parameters())))
            policy.expert.load_state_dict(load_file(folder / "lora.safetensors"))
        yield lambda live: policy(*seen(live))[0]
        return
    with attached(policy) as attachment:
        graft = DepthGraft.from_pretrained(folder / row)
        with graft.attach(policy, attachment) as grafted:

            def by_its_own(live: Any) -> Tensor:
                grafted.place({CAMERA: to_hand(live.pose(), live.observation)})
                return policy(*seen(live))[0]

            def by_another(live: Any) -> Tensor:
                images, state = seen(live)
                tokens = policy.see(images)
                if row == SHUFFLED:
                    attachment.skip()
                    made = others.bank(SHUFFLED, torch.zeros(1, dtype=torch.long), generator)
                else:
                    depth_m = torch.from_numpy(live.render().depth_m)[None] if row == TRUE else None
                    place = to_hand(live.pose(), live.observation)[None]
                    made = bank(row, read_with_features(attachment), graft.config, depth_m, place)
                grafted.give(made)
                return policy.expert(tokens, state)[0]

            yield by_its_own if row == PREDICTED else by_another


def episode(live: Any, act: Act, seed: int) -> tuple[bool, int]:
    """Whether the task is done within `MOST_STEPS`, and after how many."""
    live.start(seed)
    while not live.success and live.steps < MOST_STEPS:
        with torch.no_grad():
            actions = act(live).numpy()
        for action in actions:
            live.step(action)
            if live.success:
                break
    return live.success, live.steps


@contextmanager
def live_task() -> Iterator[Any]:
    """The task of this benchmark, without shadows and smooth edges, which take most of the time of drawing."""
    from spaceclip_worlds.metaworld.live import LiveTask

    with LiveTask(TASK, camera=CAMERA, plain=True) as live:
        set_heights(live)
        yield live


def shared(args: argparse.Namespace, jobs: Sequence[Any]) -> Sequence[Any]:
    """This process's share of them."""
    mine, processes = args.share
    return jobs[mine::processes]


def part_record(setup: Setup, args: argparse.Namespace) -> None:
    """What is in the folder."""
    counts: dict[str, Any] = {}
    for count in sorted(args.counts):
        rows: dict[str, Any] = {}
        for row in ROWS:
            runs = []
            for seed in args.seeds:
                learnt, rolled = (setup.folder(count, seed) / f"{row}{end}.json" for end in ("", "-episodes"))
                if learnt.is_file():
                    told = json.loads(rolled.read_text()) if rolled.is_file() else {}
                    runs.append({"seed": seed, **json.loads(learnt.read_text()), **told})
            if runs:
                rows[row] = runs
        if rows:
            counts[str(count)] = rows
    record = {
        "what": "policies on a frozen DeiT-Tiny (ImageNet-supervised, not CLIP), cloned from Meta-World's scripted "
        f"one: {TASK} with its machine at heights of 0 to 15 cm, camera {CAMERA} mounted anew for every episode",
        "command": "python benchmarks/graft_policies.py record",
        "first_episode": FIRST_EPISODE,
        "most_steps": MOST_STEPS,
        "machine": f"{platform.machine()}, CPU, one thread, torch {torch.__version__}",
        "demonstrations": counts,
    }
    write_json(RECORD, record)


PARTS = {"collect": part_collect, "train": part_train, "roll": part_roll, "record": part_record}


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Which part, where the files are, and which jobs of the part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="?", choices=PARTS)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--runs", type=Path)
    parser.add_argument("--counts", type=int, nargs="+", choices=COUNTS, default=COUNTS)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=ROWS)
    parser.add_argument("--episodes", type=int, default=EPISODES)
    parser.add_argument("--share", type=lambda text: tuple(map(int, text.split("/"))), default=(0, 1))
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args(argv)
    if args.part and (args.weights is None or args.runs is None):
        parser.error("a part needs --weights and --runs")
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Carry out a part, or print the record as a table."""
    args = arguments(argv)
    if args.part:
        torch.set_num_threads(1)
        PARTS[args.part](Setup(args.runs, args.weights), args)
    if RECORD.is_file():
        print(table(json.loads(RECORD.read_text())))


if __name__ == "__main__":
    main()
