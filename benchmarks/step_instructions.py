"""How many instructions a host and a read of it take, for policy_step.py: a count that other programs do not disturb.

Counted by valgrind's callgrind, with the header and the C compiler that its marks need. It knows neither AVX-512 nor
AMX: libraries take their code for AVX2, on one thread, for which the counts hold.
"""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from sized_hosts import clip_vit_b16
from step_tables import FULL, GRID, HOST, SMALL, SMALL_HW
from torch import nn

from spaceclip_plugin import DepthHead, attach_depth_head

MARKS = """#include <valgrind/callgrind.h>
void begin(void) { CALLGRIND_START_INSTRUMENTATION; CALLGRIND_ZERO_STATS; }
void end(const char *name) { CALLGRIND_DUMP_STATS_AT(name); CALLGRIND_STOP_INSTRUMENTATION; }
"""


def instructions() -> dict[str, int]:
    """By what runs: a step of the host, and reads after it of every preset and size.

    Raises:
        RuntimeError: callgrind is not installed, or did not come to its end.
    """
    tools = [shutil.which(name) for name in ("valgrind", "cc")]
    if None in tools:
        raise RuntimeError("counting instructions needs valgrind with its headers, and a C compiler `cc`")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "marks.c").write_text(MARKS)
        marks = folder / "marks.so"
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", str(marks), str(folder / "marks.c")], check=True)
        words = ["valgrind", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={folder / 'counts'}"]
        models = folder / "models.pt"  # weights are drawn here: under callgrind that alone takes minutes
        torch.save(models_of(clip_vit_b16()), models)
        words += [sys.executable, __file__, str(marks), str(models)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"counting under callgrind failed: {done.stderr[-500:]}")
        return totals(folder)


def totals(folder: Path) -> dict[str, int]:
    """Instructions by name, of every file that a mark had callgrind write."""
    found = {}
    for path in folder.glob("counts.*"):
        text = path.read_text()
        called, total = re.search("Client Request: (.*)", text), re.search(r"^totals: (\d+)", text, re.MULTILINE)
        if called and total:
            found[called[1]] = int(total[1])
    return dict(sorted(found.items(), key=lambda one: -one[1]))


def counted(marks: Any, name: str, call: Callable[[], object]) -> None:
    """One call, between marks."""
    marks.begin()
    call()
    marks.end(name.encode())


def models_of(host: nn.Module) -> tuple[nn.Module, dict[str, DepthHead]]:
    """A host, and heads for it by preset."""
    return host, {name: DepthHead.for_tower(host, preset=name).eval() for name in ("standard", "light", "fine")}


def main(marks: Any, host: nn.Module, heads: Mapping[str, DepthHead], side: int) -> None:
    """What runs under callgrind: everything once to warm up, then once that counts."""
    torch.set_num_threads(1)
    pixels = torch.ones(1, 3, side, side)
    grid = (side // 16, side // 16)
    wanted = {FULL: ("standard", None), SMALL: ("standard", SMALL_HW), GRID: ("standard", grid)}
    wanted |= {name: (name, None) for name in heads if name != "standard"}
    with torch.no_grad():
        taps = {name: attach_depth_head(host, heads[head]) for name, (head, _) in wanted.items()}
        reads = {name: partial(taps[name].read, size) for name, (_, size) in wanted.items()}
        host(pixels)
        for read in reads.values():
            read()
        counted(marks, HOST, partial(host, pixels))
        for name, read in reads.items():
            counted(marks, name, read)


if __name__ == "__main__":
    main(ctypes.CDLL(sys.argv[1]), *torch.load(sys.argv[2], weights_only=False), 224)
