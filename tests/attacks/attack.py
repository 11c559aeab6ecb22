"""Attacks `from_pretrained` of heads and grafts with all that is broken and hostile here: `python attack.py`.

Prints one JSON object. For `weights`, `configs`, `repositories` and `grafts` each:

- attacks: how many were tried, and in `kinds` of what sort;
- refused: by an error of ours in one printable line that names the file or folder;
- loaded_unharmed: a good head beside a hostile file, loaded with the right values;
- loaded_wrong: anything else that was loaded;
- refused_otherwise: by a foreign error, or one that does not name the file;
- executed: attacks during which anything was run, imported, written, connected to, or read but what was asked for;
- failures: the first few of the last three, in words.

And for all: `extra_peak_bytes` of memory above what loading a good head takes, the longest message in characters, the
slowest load in seconds, and the processor time of everything.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "stand_ins"))  # a script of its own, started by nobody's pytest

from crafted_headers import crafted_headers
from forged_weights import foreign_heads, forged_weights
from hostile_configs import hostile_configs
from hostile_repositories import CONFIG, WEIGHTS, hostile_repositories
from mutations import mutations
from targets import CONFIGS, Forgery, target
from watch import Watch

from spaceclip_plugin import DepthHead
from spaceclip_plugin._digest import module_digest
from spaceclip_plugin.errors import SpaceClipError
from spaceclip_plugin.graft import DepthGraft, GraftConfig
from spaceclip_plugin.graft.published import FILE_NAME as GRAFT

FILES = (CONFIG, WEIGHTS, GRAFT)
SHOWN = 20


@dataclass
class Tally:
    """What became of attacks of one sort."""

    attacks: int = 0
    refused: int = 0
    loaded_unharmed: int = 0
    loaded_wrong: int = 0
    refused_otherwise: int = 0
    executed: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    def failed(self, name: str, why: str) -> None:
        """Note a failure, if it is among the first."""
        if len(self.failures) < SHOWN:
            self.failures.append(f"{name}: {why}"[:400])


class Attacker:
    """Loads folders, watches, and counts.

    Attributes:
        longest: characters of the longest message.
        slowest_s: the slowest load.
    """

    def __init__(self, marker: Path) -> None:
        self.longest = 0
        self.slowest_s = 0.0
        self._marker = marker
        self._watch = Watch()

    def load(
        self, folder: Path, tally: Tally, name: str, *, good: DepthHead | DepthGraft, is_good: bool = False
    ) -> None:
        """Load a hostile folder; only `good` may come of it, and only where the folder `is_good`."""
        tally.attacks += 1
        self._watch.seen.clear()
        began = time.perf_counter()
        try:
            with self._watch.on(tuple(str(folder / name) for name in FILES)):
                loaded = type(good).from_pretrained(folder)
        except SpaceClipError as error:
            self._judge_message(str(error), folder, tally, name, is_good)
        except BaseException as error:  # whatever an attack raises is a finding
            tally.refused_otherwise += 1
            tally.failed(name, f"{type(error).__name__}: {error}")
        else:
            self._judge_loaded(loaded, good, tally, name, is_good)
        self.slowest_s = max(self.slowest_s, time.perf_counter() - began)
        if self._watch.seen or self._marker.exists():
            tally.executed += 1
            tally.failed(name, "; ".join(self._watch.seen[:3]) or "a program ran")
            self._marker.unlink(missing_ok=True)

    def _judge_message(self, message: str, folder: Path, tally: Tally, name: str, is_good: bool) -> None:
        self.longest = max(self.longest, len(message))
        reason = message.replace(str(folder), "")
        is_told = len(reason) < len(message) and any(name in reason for name in FILES) and len(reason) > 40
        if is_told and message.isprintable() and not is_good:
            tally.refused += 1
        else:
            tally.refused_otherwise += 1
            tally.failed(name, f"refused with {message!r}")

    def _judge_loaded(
        self, loaded: DepthHead | DepthGraft, good: DepthHead | DepthGraft, tally: Tally, name: str, is_good: bool
    ) -> None:
        if is_good and loaded.config == good.config and module_digest(loaded) == module_digest(good):
            tally.loaded_unharmed += 1
        else:
            tally.loaded_wrong += 1
            tally.failed(name, "loaded")


@contextmanager
def _modules_made_once() -> Iterator[None]:
    """Keep the empty module of a config until weights go into it: building it takes three quarters of a refusal.

    For attacks on the weights alone, which no module has seen when it is built.
    """
    made: dict[Any, DepthHead] = {}
    build, fill = DepthHead._without_weights, DepthHead._with_weights

    def build_once(config: Any) -> DepthHead:
        return made[config] if config in made else made.setdefault(config, build(config))

    def fill_and_forget(head: DepthHead, *args: Any, **kwargs: Any) -> DepthHead:
        made.pop(head.config)
        return fill(head, *args, **kwargs)

    with mock.patch.multiple(DepthHead, _without_weights=staticmethod(build_once), _with_weights=fill_and_forget):
        yield


def attack_weights(attacker: Attacker, root: Path, tally: Tally) -> None:
    """Every mutated weight file, under the config it was made for."""
    heads = {name: target(config) for name, config in CONFIGS.items()}
    folders = {name: head.save_pretrained(root / name) for name, head in heads.items()}
    whole = {name: (folder / WEIGHTS).read_bytes() for name, folder in folders.items()}
    scratch = root / "scratch.safetensors"
    for name, head in heads.items():
        [other] = [raw for key, raw in whole.items() if key != name]
        for forgery in (
            forgery
            for source in (
                mutations(whole[name]),
                crafted_headers(whole[name], other),
                forged_weights(head, scratch),
                foreign_heads(head, scratch),
            )
            for forgery in source
        ):
            _forge(attacker, tally, folders[name] / WEIGHTS, forgery, name, head)


def attack_configs(attacker: Attacker, root: Path, tally: Tally) -> None:
    """Every hostile config, over the weights of a good head."""
    heads = {name: target(config) for name, config in CONFIGS.items()}
    folders = {name: head.save_pretrained(root / f"{name}-config") for name, head in heads.items()}
    whole = {name: (folder / CONFIG).read_bytes() for name, folder in folders.items()}
    for name, head in heads.items():
        [other] = [raw for key, raw in whole.items() if key != name]
        for forgery in hostile_configs(whole[name], other):
            _forge(attacker, tally, folders[name] / CONFIG, forgery, name, head)


def attack_grafts(attacker: Attacker, root: Path, tally: Tally) -> None:
    """Every mutated file of a graft: its config is in the same file, and its digest is of both."""
    digests = {"head_digest": "0" * 64, "blocks_digest": "1" * 64}
    graft = DepthGraft(
        GraftConfig(blocks=("mlp",), widths=((2, 2),), cameras=("front",), look_width=2, width=32, **digests)
    )
    path = graft.save_pretrained(root / "graft")
    for forgery in mutations(path.read_bytes()):
        _forge(attacker, tally, path, forgery, "graft", graft)


def _forge(
    attacker: Attacker, tally: Tally, path: Path, forgery: Forgery, name: str, good: DepthHead | DepthGraft
) -> None:
    path.unlink()  # some disks wait for the old content of what is overwritten
    path.write_bytes(forgery.raw)
    tally.kinds[forgery.kind] += 1
    attacker.load(path.parent, tally, f"{name}, {forgery.kind}, {forgery.name}", good=good)


def attack_repositories(attacker: Attacker, root: Path, tally: Tally, marker: Path) -> None:
    """Every hostile folder, of either architecture."""
    for name, config in CONFIGS.items():
        head = target(config)
        whole = head.save_pretrained(root / f"{name}-whole")
        for repository in hostile_repositories(marker):
            folder = root / "repository"
            shutil.copytree(whole, folder)
            repository.change(folder)
            tally.kinds["good head beside" if repository.is_good else "no head"] += 1
            attacker.load(folder, tally, f"{name}, {repository.name}", good=head, is_good=repository.is_good)
            shutil.rmtree(folder)


def peak_bytes() -> int:
    """The most memory this process has had; `ru_maxrss` would count that of the process that started it too."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) << 10


def main() -> None:
    """Run all attacks."""
    torch.set_num_threads(1)
    began = time.process_time()
    # Where it can be, in memory: a hundred thousand files are written.
    shared_memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=shared_memory) as place:
        root = Path(place)
        marker = root / "pwned"
        attacker = Attacker(marker)
        for name, config in CONFIGS.items():  # the first time, torch imports what it needs
            DepthHead.from_pretrained(target(config).save_pretrained(root / f"{name}-warm"))
        baseline = peak_bytes()
        tallies = {name: Tally() for name in ("weights", "configs", "repositories", "grafts")}
        with _modules_made_once():
            attack_weights(attacker, root, tallies["weights"])
        attack_configs(attacker, root, tallies["configs"])
        attack_repositories(attacker, root, tallies["repositories"], marker)
        attack_grafts(attacker, root, tallies["grafts"])
    found = {name: vars(tally) for name, tally in tallies.items()}
    extra = {"extra_peak_bytes": peak_bytes() - baseline, "longest_message": attacker.longest}
    times = {"slowest_load_s": round(attacker.slowest_s, 3), "cpu_seconds": round(time.process_time() - began, 1)}
    json.dump({**found, **extra, **times}, sys.stdout, indent=2)


if __name__ == "__main__":
    main()
