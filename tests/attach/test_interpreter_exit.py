"""A process that ends with an attachment alive ends in silence."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import logging, sys, time, torch
logging.disable()
sys.path.insert(0, {tests!r})
from clip_world import SMALL, clip_host, images
from fresh_heads import fresh_head
from spaceclip_plugin import DepthReader, attach_depth_head
how = {how!r}
host = clip_host(image_size=224 if "busy" in how else 32)
if "compiled" in how:
    host.compile(backend="eager")
head = fresh_head(host) if "busy" in how else fresh_head(host, **SMALL)
depth = attach_depth_head(host, head)
with torch.no_grad():
    host(torch.randn(4, 3, 224, 224) if "busy" in how else images(1))
    if "cycle" in how:
        depth.head.attachment = [depth]
    if "reader" in how:
        reader = DepthReader(depth, background=True)
        reader.step()
        time.sleep(0.02)
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["eager", "compiled", "compiled, in a cycle", "idle reader", "busy reader"])
def test_nothing_is_said_at_exit(how: str) -> None:
    script = SCRIPT.format(tests=str(Path(__file__).parents[1] / "stand_ins"), how=how)
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
