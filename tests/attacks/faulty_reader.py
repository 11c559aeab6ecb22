"""Attacks a reader with every fault there is, to see that each is found: `python faulty_reader.py`.

Prints one JSON object: what was done by the reader → what the tally says that is not zero.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import socket
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from unittest import mock

from attack import Attacker, Tally
from hostile_repositories import CONFIG, WEIGHTS, pickles
from targets import CONFIGS, target

from spaceclip_plugin import DepthHead
from spaceclip_plugin.errors import CheckpointError


def main() -> None:
    """Load one folder with one faulty reader after the other."""
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        good = target(CONFIGS["tap-mixer"])
        folder = good.save_pretrained(root / "head")
        (folder / "pytorch_model.bin").write_bytes(pickles(root / "pwned")["pickle 4"])
        faults = _faults(good, root)
        attacker = Attacker(root / "pwned")
        attacker.load(folder, Tally(), "the first", good=good, is_good=True)
        found = {}
        for name, (fault, is_good) in faults.items():
            tally = Tally()
            with mock.patch.object(DepthHead, "from_pretrained", staticmethod(fault)):
                attacker.load(folder, tally, name, good=good, is_good=is_good)
            found[name] = {k: v for k, v in vars(tally).items() if isinstance(v, int) and v}
    json.dump(found, sys.stdout)


def _faults(good: DepthHead, root: Path) -> dict[str, tuple[Callable[[Path], object], bool]]:
    """Readers by what they do, and whether the folder they read holds a good head."""
    text = "so that a person knows what is wrong and what to do next"

    def raising(error: Callable[[Path], BaseException]) -> Callable[[Path], object]:
        def read(folder: Path) -> object:
            raise error(folder)

        return read

    def while_refusing(deed: Callable[[Path], object]) -> Callable[[Path], object]:
        def read(folder: Path) -> object:
            deed(folder)
            raise CheckpointError(f"{folder}/{CONFIG} is bad, {text}")

        return read

    other_config = target(dataclasses.replace(good.config, base_model="another"))
    refuse = while_refusing(lambda _: None)
    return {
        "refuses": (refuse, False),
        "refuses a good head": (refuse, True),
        "loads the good head": (lambda _: good, True),
        "loads what is no head": (lambda _: good, False),
        "loads other values": (lambda _: target(good.config, seed=1), True),
        "loads another config": (lambda _: other_config, True),
        "raises KeyError": (raising(lambda folder: KeyError(f"{folder}/{WEIGHTS} {text}")), False),
        "exits": (raising(lambda _: SystemExit(0)), False),
        "names no folder": (raising(lambda _: CheckpointError(f"{CONFIG} is bad, {text}")), False),
        "names no file": (raising(lambda folder: CheckpointError(f"{folder} is bad, {text}")), False),
        "gives no reason": (raising(lambda folder: CheckpointError(f"{folder}/{CONFIG}")), False),
        "writes to the terminal": (raising(lambda f: CheckpointError(f"{f}/{CONFIG} \x1b[2J {text}")), False),
        "unpickles": (while_refusing(lambda f: pickle.loads((f / "pytorch_model.bin").read_bytes())), False),
        "opens the pickle": (while_refusing(lambda f: (f / "pytorch_model.bin").open("rb").close()), False),
        "writes": (while_refusing(lambda f: (f / CONFIG).open("ab").close()), False),
        "removes": (while_refusing(lambda f: (f / "pytorch_model.bin").unlink()), False),
        "evaluates": (while_refusing(lambda _: eval("1 + 1")), False),
        "imports": (while_refusing(lambda _: __import__("this_module_is_not_there", level=0)), False),
        "starts a program": (while_refusing(lambda _: os.system("true")), False),
        "asks the network": (while_refusing(lambda _: socket.socket().close()), False),
    }


if __name__ == "__main__":
    main()
