"""What depth costs a policy's step: every part runs on tiny hosts, and its figures are what they are said to be."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import policy_step as steps
import pytest
import step_instructions
import step_tables as tables
import torch
from sized_hosts import TINY, StandIn, TowerAlone, depth_anything, small_clip

TINY_RIVAL = {"hidden_size": 24, "num_attention_heads": 2, "num_hidden_layers": 4, "out_indices": [1, 2, 3, 4]}


@pytest.fixture(autouse=True)
def _quick_and_threads_as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(steps, "OTHER_THINGS", torch.zeros(8))
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def well_formed(markdown: str) -> bool:
    """Every table of it has as many cells in each row."""
    blocks = [block.splitlines() for block in markdown.split("\n\n") if block.startswith("|")]
    return bool(blocks) and all(len({line.count("|") for line in lines}) == 1 and len(lines) > 2 for lines in blocks)


def test_a_ratio_on_top_of_a_step_and_beside_what_is_wanted() -> None:
    one = {"ratio": 0.0119, "interval": [0.011, 0.013]}
    assert tables.shown(one, 0.012) == "0.012 (0.011 to 0.013), wanted ≤ 0.012 ✓"
    assert tables.shown({**one, "ratio": 0.0131}, 0.012).endswith("✗")
    assert tables.shown(one, plus=1.0) == "1.012 (1.011 to 1.013)"


class TestReads:
    def test_each_runs_once_after_every_step_and_seldom_ones_every_fourth_time(self) -> None:
        done: list[str] = []
        reads = {"a": [lambda: done.append("a")] * 2, "b": [lambda: done.append("b")]}
        times = steps.in_turns(lambda: done.append("host"), reads, 5, seldom=["b"])
        assert {name: len(found) for name, found in times.items()} == {"host": 5, "a": 10, "b": 2}
        assert done.count("host") == 7
        assert done[0] == "host"

    def test_of_three_sizes_and_another_preset(self) -> None:
        host = small_clip()
        found = steps.reads_of(host, torch.randn(1, 3, 64, 64), rounds=2, threads=1, repeats=2, presets=["light"])
        assert list(found["reads"]) == [tables.FULL, tables.SMALL, tables.GRID, "light"]
        assert all(one["ratio"] > 0 and one["of"] == [4, 2] for one in found["reads"].values())
        assert not any(module._forward_hooks for module in host.modules())

    def test_a_runtime_that_gives_another_depth_is_refused(self) -> None:
        depth_m = torch.linspace(1, 2, 12).reshape(1, 3, 4)
        steps.check_alike(depth_m, {"one": (depth_m + 1e-6).numpy()})
        with pytest.raises(RuntimeError, match="other: depth is off by"):
            steps.check_alike(depth_m, {"other": depth_m.flip(-1).numpy()})


class TestPolicies:
    def test_a_stand_in_sees_with_its_tower_once_for_each_camera(self) -> None:
        policy, calls = StandIn(TINY), []
        policy.tower.register_forward_hook(lambda *_: calls.append(1))
        with torch.no_grad():
            actions = policy(policy.images(2))
        assert actions.shape == (1, TINY.actions, TINY.expert["hidden_size"])
        assert actions.isfinite().all()
        assert len(calls) == 2

    def test_its_actions_depend_on_what_it_sees(self) -> None:
        torch.manual_seed(0)
        policy = StandIn(TINY)
        with torch.no_grad():
            one, other = policy(policy.images(1)), policy(policy.images(1))
        assert not torch.equal(one, other)

    def test_every_way_of_reading(self) -> None:
        [row] = steps.policy_rows(StandIn(TINY), threads=1, rounds=2, repeats=2, cameras=(2,))
        assert row["cameras"] == 2
        assert row["added"][tables.EVERY_STEP]["of"] == [2 * 2 * steps.STEPS, 2 * steps.STEPS]
        assert row["added"][tables.EVERY_THIRD]["of"] == [2 * 2, 2 * steps.STEPS]
        assert row["with"][tables.IN_BACKGROUND]["of"] == [2 * steps.STEPS, 2 * steps.STEPS]

    def test_all_cameras_in_one_call(self) -> None:
        policy, seen = TowerAlone(small_clip(), 64, together=True), []
        policy.tower.register_forward_pre_hook(lambda _module, given: seen.append(given[0].shape[0]))
        [row] = steps.policy_rows(policy, threads=1, rounds=1, cameras=(3,))
        assert set(seen) == {3}
        assert row["added"][tables.EVERY_STEP]["ratio"] > 0


@pytest.mark.slow
class TestWhole:
    def test_parts_and_their_tables(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        pixels, rival = torch.randn(1, 3, 64, 64), depth_anything(42, **TINY_RIVAL)
        small = {
            "vit-b": lambda: [steps.reads_of(small_clip(), pixels, 1, 1, presets=["light", "fine"])],
            "heads": lambda: steps.heads_part(small_clip(), rival, (64, 28, 42), 1, threads=(1,)),
            "taps": lambda: steps.taps_part(small_clip(), pixels, 2),
            "smolvla": lambda: list(steps.policy_rows(StandIn(TINY), 1, 1)),
            "training": lambda: steps.training_part(small_clip(), 64, 1, images=2, batch=1),
        }
        monkeypatch.setattr(steps, "PARTS", small)
        record = tmp_path / "record.json"
        steps.main(["--record", str(record), "taps"])
        found = steps.read_json_object(record)
        assert list(found) == ["taps"]
        steps.main(["--record", str(record)])
        whole = steps.read_json_object(record)
        assert set(whole) == set(small)
        assert whole["taps"] == found["taps"]
        assert all(well_formed(make(whole)) for make in tables.TABLES.values())
        assert "so400m-224 so400m-384 instructions`" in tables.towers(whole)
        for name in ("standard", "standard, fused", "space-clip", "space-clip, fused"):
            assert whole["heads"]["found"]["runs"][0]["reads"][name]["ratio"] > 0
        sizes = whole["heads"]["found"]["sizes"]
        assert sizes["standard"]["gflop"] == sizes["standard, fused"]["gflop"] > 0  # what is done in place counts too


class TestInstructions:
    def test_every_call_stands_between_marks_and_the_host_comes_first(self) -> None:
        marked: list[str] = []
        marks = SimpleNamespace(begin=lambda: marked.append("("), end=lambda name: marked.append(name.decode()))
        step_instructions.main(marks, *step_instructions.models_of(small_clip()), 64)
        assert marked[::2] == ["("] * 6
        assert marked[1::2] == [tables.HOST, tables.FULL, tables.SMALL, tables.GRID, "light", "fine"]

    def test_what_callgrind_wrote(self, tmp_path: Path) -> None:
        (tmp_path / "counts.1").write_text("desc: Trigger: Client Request: fine\nsummary: 12\ntotals: 12\n")
        (tmp_path / "counts.2").write_text("desc: Trigger: Client Request: host\nsummary: 40\ntotals: 40\n")
        (tmp_path / "counts").write_text("desc: Trigger: Program termination\ntotals: 1\n")
        (tmp_path / "counts.3").write_text("desc: Trigger: Program termination\ntotals: 1\n")
        assert list(step_instructions.totals(tmp_path).items()) == [("host", 40), ("fine", 12)]

    def test_without_its_tools(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(shutil, "which", lambda _name: None)
        with pytest.raises(RuntimeError, match="needs valgrind with its headers, and a C compiler"):
            step_instructions.instructions()


@pytest.mark.parametrize(
    ("table", "parts"),
    [
        ("cost-towers", "vit-b so400m-224 so400m-384 instructions taps"),
        ("cost-policies", "tower-alone one-call smolvla pi0"),
        ("cost-heads", "heads"),
        ("cost-training", "training"),
        ("presets", "vit-b heads"),
    ],
)
def test_a_table_of_nothing_says_what_to_run(table: str, parts: str) -> None:
    assert tables.TABLES[table]({}) == f"Not measured yet: `python benchmarks/policy_step.py {parts}`."


def test_the_front_page_tells_the_least_and_the_most_of_any_number_of_cameras() -> None:
    towers = [{"threads": count, "reads": {tables.FULL: {"ratio": 0.031 * count}}} for count in (1, 2)]
    small, large = (
        [{"added": {tables.EVERY_STEP: {"ratio": ratio}}} for ratio in ratios]
        for ratios in ((0.0149, 0.0217, 0.02), (0.0041, 0.004))
    )
    alone = [
        {"threads": 1, "cameras": 1, "added": {tables.EVERY_STEP: {"ratio": 0.036}}},
        {"threads": 1, "cameras": 3, "added": {tables.EVERY_STEP: {"ratio": 0.5}}},
    ]
    found = {"vit-b": towers, "tower-alone": alone, "smolvla": small, "pi0": large}
    said = tables.in_short({part: {"found": rows} for part, rows in found.items()})
    assert "adds 3.1 to 3.6 % on 1 thread and 6.2 % on 2 threads to a ViT-B/16 alone" in said
    assert "adds 1.5 to 2.2 % where it is of SmolVLA's size, 0.4 % where of π0's" in said


def test_a_part_that_there_is_not(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        steps.main(["vit", "--record", str(tmp_path / "none.json")])
    assert "no part is called vit; there are vit-b, so400m-224" in capsys.readouterr().err
