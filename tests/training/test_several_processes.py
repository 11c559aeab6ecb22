"""Two processes that `torchrun` starts do what one does: the same gradients, cache, metrics and resume."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from scripts import script_environment

from spaceclip_plugin.training.run.checkpoint import Checkpoint, CheckpointFolder

pytestmark = pytest.mark.slow
SCRIPT = Path(__file__).with_name("launched_run.py")


def launched(out: Path, case: str, processes: int) -> subprocess.CompletedProcess[str]:
    # torchrun: for processes on the CPU, accelerate launch wants MPI.
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command = [*launch, str(SCRIPT), str(out), case]
    environment = script_environment(GLOO_SOCKET_IFNAME="lo", PYTHONWARNINGS="ignore")
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)


def run(out: Path, case: str, processes: int) -> Path:
    done = launched(out, case, processes)
    assert done.returncode == 0, done.stderr
    return out


def newest(out: Path) -> Checkpoint:
    checkpoint = CheckpointFolder(out / "checkpoints").newest()
    assert checkpoint is not None
    for epoch in checkpoint.state["history"]:
        epoch.pop("seconds")
    return checkpoint


def found(out: Path, rank: int = 0) -> dict[str, object]:
    content: dict[str, object] = json.loads(out.with_name(f"{out.name}-found-{rank}.json").read_text())
    return content


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    folder = tmp_path_factory.mktemp("processes")
    return {count: run(folder / f"of-{count}", "plain", count) for count in (1, 2)}


def gradients(out: Path, rank: int = 0) -> dict[str, torch.Tensor]:
    return load_file(out.with_name(f"{out.name}-gradients-{rank}.safetensors"))


def assert_close_gradients(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    total = torch.cat([value.flatten() for value in one.values()]).norm()
    assert total > 0.1
    for name, value in one.items():
        assert (value - other[name]).norm() < 1e-5 * total


def test_the_summed_gradient_is_that_of_one_process(runs: dict[int, Path]) -> None:
    assert_close_gradients(gradients(runs[1]), gradients(runs[2]))
    for name, value in gradients(runs[2]).items():
        assert torch.equal(value, gradients(runs[2], 1)[name])


def test_crops_without_depth_weigh_nothing_in_any_number_of_processes(tmp_path: Path) -> None:
    out = {count: run(tmp_path / f"of-{count}", "blind", count) for count in (1, 2)}
    assert_close_gradients(gradients(out[1]), gradients(out[2]))
    assert newest(out[1]).step == newest(out[2]).step == 6
    assert found(out[2])["abs_rel"] == pytest.approx(found(out[1])["abs_rel"], rel=1e-3)


def test_micro_batches_add_up_too(tmp_path: Path, runs: dict[int, Path]) -> None:
    out = {count: run(tmp_path / f"of-{count}", "accumulated", count) for count in (1, 2)}
    assert_close_gradients(gradients(out[1]), gradients(out[2]))
    # The loss of parts is not the loss of the whole, so the gradient differs, but not by much.
    cosine = torch.nn.functional.cosine_similarity(
        *(torch.cat([v.flatten() for v in gradients(one).values()]) for one in (runs[1], out[1])), dim=0
    )
    assert 0.9 < cosine < 0.999999
    assert found(out[2])["abs_rel"] == pytest.approx(found(out[1])["abs_rel"], rel=1e-3)


def test_both_end_with_the_same_head(runs: dict[int, Path]) -> None:
    one, two = newest(runs[1]), newest(runs[2])
    assert one.step == two.step == 6
    heads = [torch.cat([v.flatten() for v in run.tensors["head"].values()]) for run in (one, two)]
    # Of the whole, not of each weight: Adam makes much of the smallest gradients. Measured: 4e-6 and 6e-6.
    assert (heads[0] - heads[1]).norm() < 2e-5 * heads[0].norm()
    for rank in (0, 1):
        assert found(runs[2], rank)["abs_rel"] == pytest.approx(found(runs[1])["abs_rel"], rel=1e-4)
        assert found(runs[2], rank)["digest"] == found(runs[1])["digest"]


def test_processes_leave_their_group_before_they_end(runs: dict[int, Path]) -> None:
    # Otherwise the interpreter ends while the group's threads run, and now and then aborts.
    for rank in (0, 1):
        assert json.loads(runs[2].with_name(f"{runs[2].name}-left-{rank}.json").read_text()) is True


def test_the_cache_is_the_same_whoever_makes_it(runs: dict[int, Path]) -> None:
    files = [sorted((out / "cache").rglob("*.*")) for out in runs.values()]
    assert [path.name for path in files[0]] == [path.name for path in files[1]]
    assert sum(path.name.startswith("shard-") for path in files[0]) > 3
    for one, other in zip(*files, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name


def test_a_run_of_two_is_resumed_bit_by_bit(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", "starting", 2)
    stopped = tmp_path / "stopped"
    assert launched(stopped, "stopped", 2).returncode != 0
    assert newest(stopped).step == 4
    run(stopped, "resumed", 2)
    first, second = newest(whole), newest(stopped)
    assert first.state == second.state
    assert first.tensors.keys() == second.tensors.keys() >= {"rng-0", "rng-1"}
    for stem, tensors in first.tensors.items():
        for name, value in tensors.items():
            assert torch.equal(value, second.tensors[stem][name]), f"{stem}: {name}"
    assert not torch.equal(first.tensors["rng-0"]["cpu"], first.tensors["rng-1"]["cpu"])


def test_one_process_does_not_continue_what_two_began(tmp_path: Path) -> None:
    assert launched(tmp_path / "out", "stopped", 2).returncode != 0
    done = launched(tmp_path / "out", "resumed", 1)
    assert "made by 2 processes and would be continued by 1" in done.stderr


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ("bad-sample", "unknown.jpg"),
        ("late", "this batch is gone"),
        ("spoilt", "the norm of its gradient is nan at step 0"),
        ("unlike", "their weights of the head differ"),
    ],
)
def test_what_stops_one_stops_all(tmp_path: Path, case: str, reason: str) -> None:
    done = launched(tmp_path / "out", case, 2)
    assert done.returncode != 0
    assert done.stderr.count("refused: ") == 2
    assert done.stderr.count(reason) >= 2


def test_batch_statistics_that_cannot_be_shared_are_refused(tmp_path: Path) -> None:
    done = launched(tmp_path / "out", "space-clip", 2)
    assert "2 processes on the CPU cannot share the batch statistics of" in done.stderr
