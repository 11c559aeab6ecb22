"""Kills a process that saves checkpoints, and looks at what is left: `python killed_writer.py --kills 200`.

Every writer is forked from this process, goes on from the newest checkpoint, says when it begins a save, and is killed
(SIGKILL) a random time later, spread over more than two saves. Prints one JSON object:

- kills: how many writers were killed;
- unreadable: after how many kills the newest checkpoint did not load, or was not one that it may be, or an older one
  was not all there;
- temporaries_left: how many kills hit the writing, and left a hidden folder half-written;
- removals_left: how many hit the removal of an old checkpoint, and left it hidden;
- advanced: how many hit a save between its rename and its return, so that the new checkpoint was there already.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import statistics
import sys
import tempfile
import time
import traceback
from pathlib import Path

import torch

from spaceclip_plugin.errors import CheckpointError
from spaceclip_plugin.training.run.checkpoint import Checkpoint, CheckpointFolder

MEASURED_SAVES = 7
FILES = {"checkpoint.json", "head.safetensors", "average.safetensors", "rng-0.safetensors"}


def checkpoint(step: int) -> Checkpoint:
    """1 to 4 MB that only this step has."""
    generator = torch.Generator().manual_seed(step)
    values = torch.randn((1 + step % 4) * 240_000, generator=generator)
    tensors = {
        "head": {"weight": values.view(3, -1), "bias": values[:7]},
        "average": {"weight": values[::3]},
        "rng-0": {"torch": generator.get_state()},
    }
    return Checkpoint(step, {"step": step, "losses": values[:20].tolist()}, tensors)


def is_whole(found: Checkpoint) -> bool:
    expected = checkpoint(found.step)
    return (
        found.state == expected.state
        and found.tensors.keys() == expected.tensors.keys()
        and all(
            found.tensors[stem].keys() == tensors.keys()
            and all(torch.equal(found.tensors[stem][name], value) for name, value in tensors.items())
            for stem, tensors in expected.tensors.items()
        )
    )


def is_all_there(folder: Path) -> bool:
    return {entry.name for entry in folder.iterdir()} == FILES


def write_on(path: Path, step: int, report: int) -> None:
    """Save one checkpoint after the other, for ever."""
    while True:
        made = checkpoint(step)
        os.write(report, f"{step} begins\n".encode())
        CheckpointFolder(path).save(made)
        os.write(report, f"{step} is done\n".encode())
        step += 1


def kill_writer(path: Path, step: int, delay_s: float) -> list[str]:
    """What a writer said until it was killed, `delay_s` after it began its first save."""
    reading, report = os.pipe()
    writer = os.fork()
    if writer == 0:
        try:
            write_on(path, step, report)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    os.close(report)
    with os.fdopen(reading) as said:
        first = said.readline()
        time.sleep(delay_s)
        os.kill(writer, signal.SIGKILL)
        _, status = os.waitpid(writer, 0)
        if not (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL):
            raise RuntimeError("the writer did not live until it was killed")
        return [first, *said]


def save_length_s(path: Path) -> float:
    """How long one save takes here."""
    lengths_s = []
    for step in range(MEASURED_SAVES):
        made, started = checkpoint(step), time.perf_counter()
        CheckpointFolder(path).save(made)
        lengths_s.append(time.perf_counter() - started)
    return statistics.median(lengths_s)


def kill_often(path: Path, kills: int, seed: int) -> dict[str, int]:
    counts = dict.fromkeys(("kills", "unreadable", "temporaries_left", "removals_left", "advanced"), 0)
    # Long enough for a second save, so that its end is hit as often as its beginning.
    longest_s, chance = 2.5 * save_length_s(path), random.Random(seed)
    newest = MEASURED_SAVES - 1
    for _ in range(kills):
        said = kill_writer(path, newest + 1, chance.uniform(0.0, longest_s))
        counts["kills"] += 1
        saving = int(said[-1].split()[0])
        finished = said[-1].endswith("is done\n")
        left = {entry.suffix for entry in path.iterdir() if entry.name.startswith(".")}
        counts["temporaries_left"] += ".tmp" in left
        counts["removals_left"] += ".old" in left
        try:
            found = CheckpointFolder(path).newest()
        except CheckpointError:
            found = None
        # What was done must be there, what had begun may be.
        allowed = {saving} if finished else {saving - 1, saving}
        all_there = all(is_all_there(folder) for folder in path.glob("step-*"))
        if found is None or found.step not in allowed or not is_whole(found) or not all_there:
            counts["unreadable"] += 1
            shutil.rmtree(path)
            newest = saving
            continue
        counts["advanced"] += not finished and found.step == saving
        newest = found.step
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description="Kill a process that saves checkpoints, and look at what is left.")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)  # a thread would not survive the fork
    with tempfile.TemporaryDirectory() as folder:
        counts = kill_often(Path(folder) / "checkpoints", options.kills, options.seed)
    sys.stdout.write(json.dumps(counts) + "\n")


if __name__ == "__main__":
    main()
