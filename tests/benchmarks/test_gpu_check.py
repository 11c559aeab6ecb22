"""The GPU check runs on a CPU, small: every part tells what it found or why it found nothing, and costs no other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gpu_check
import pytest
import torch
from gpu_parts import PARTS


def checked(record: Path, *parts: str, whole: float = 300.0) -> dict[str, Any]:
    words = ["--device", "cpu", "--record", str(record), "--whole", str(whole), "--parts", *parts]
    gpu_check.main(words)
    found = json.loads(record.read_text())
    assert list(found["parts"]) == list(parts)
    return found["parts"]


def test_all_parts_together_take_less_than_eight_minutes() -> None:
    assert sum(limit_s for limit_s, _ in PARTS.values()) <= gpu_check.WHOLE_S < 480


def test_without_time_nothing_is_begun(tmp_path: Path) -> None:
    assert checked(tmp_path / "record.json", "latency", whole=1) == {"latency": {"skipped": "no time was left"}}


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch finds a CUDA device here")
def test_without_a_gpu_the_cpu_is_proposed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        gpu_check.main([])
    assert "--device cpu tries the program" in capsys.readouterr().err


@pytest.mark.slow
class TestParts:
    def test_one_that_hangs_is_stopped_and_one_that_fails_says_why(self, tmp_path: Path) -> None:
        args = gpu_check.arguments(["--device", "cpu", "--record", str(tmp_path / "record.json")])
        assert gpu_check.alone("latency", args, 0.5) == {"stopped_after_s": 0.5}
        args.nyu, args.weights = tmp_path, tmp_path / "absent.safetensors"
        failed = gpu_check.alone("nyu", args, 100)
        assert "val_100.txt: expected a text file" in failed["failed"]

    def test_every_part_finds_something_or_says_why_not(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        record = tmp_path / "record.json"
        found = checked(record, "graphs", "latency", "memory", "training", "nyu")
        skipped = {name: part["skipped"] for name, part in found.items() if "skipped" in part}
        assert skipped == {
            "graphs": "there are no CUDA graphs on a CPU",
            "nyu": "--nyu and --weights were not given",
        }
        latency = found["latency"]["found"]
        assert [(row["batch"], row["cameras"]) for row in latency["tower"]] == [
            (b, c) for b in (1, 8) for c in (1, 2, 3)
        ]
        assert all(row["ratio"]["median"] > 0 for row in (*latency["tower"], latency["policy"]))
        memory = found["memory"]["found"]["mb"]
        assert 0 < memory["host"] <= memory["host + read"]
        assert all(rate > 0 for rate in found["training"]["found"]["steps_per_second"].values())
        assert "| latency |" in capsys.readouterr().out

    def test_a_compiled_host_keeps_its_bits(self, tmp_path: Path) -> None:
        found = checked(tmp_path / "record.json", "compiled")["compiled"]["found"]
        assert found["default"]["host_bits"]
