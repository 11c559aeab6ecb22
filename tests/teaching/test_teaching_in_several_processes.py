"""Two processes that `torchrun` starts leave what one leaves, and take up what was begun."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from scripts import script_environment
from wall_teacher import save_photos

pytestmark = pytest.mark.slow
SCRIPT = Path(__file__).with_name("launched_teaching.py")


def taught(kitchen: Path, out: Path, processes: int) -> dict[str, bytes]:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    environment = script_environment(GLOO_SOCKET_IFNAME="lo", PYTHONWARNINGS="ignore")
    command = [*launch, str(SCRIPT), str(kitchen), str(out)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return {path.name: path.read_bytes() for path in sorted(out.iterdir()) if path.name != ".lock"}


def test_two_processes_leave_what_one_leaves(tmp_path: Path) -> None:
    kitchen = save_photos(tmp_path / "kitchen", 7, measured=(1, 5))
    alone = taught(kitchen, tmp_path / "alone", 1)
    assert len(alone) == 5  # four shards and the record
    assert taught(kitchen, tmp_path / "together", 2) == alone
    (tmp_path / "together" / "taught-00001.safetensors").unlink()
    (tmp_path / "together" / "teacher.json").unlink()
    assert taught(kitchen, tmp_path / "together", 2) == alone
