"""What depth costs: the benchmark runs on a tiny host, and its figures are what they are said to be."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import depth_cost as cost
import depth_figures as figures
import pytest
import torch
import transformers
from cost_records import check
from torch import nn

from spaceclip_plugin.head.architectures import ARCHITECTURES


def tiny_clip() -> nn.Module:
    return transformers.CLIPVisionModel(
        transformers.CLIPVisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=6,
            num_attention_heads=4,
            image_size=32,
            patch_size=16,
        )
    )


@pytest.fixture(scope="module")
def tiny() -> dict[str, Any]:
    """A record of a tiny world; heads are not compiled and not exported, for that takes a minute."""

    def rival() -> nn.Module:
        return cost.depth_anything(
            42, hidden_size=24, num_attention_heads=2, num_hidden_layers=4, out_indices=[1, 2, 3, 4]
        )

    world = cost.World("a tiny tower", tiny_clip, 32, rival, rival_sides=(28, 42))
    quick = {"compiling": False, "exporting": False, "images": 2, "batch": 1, "repeats": 2}
    return cost.measured(world, device="cpu", rounds=2, threads=[1], training_rounds=2, **quick)


@pytest.mark.slow
class TestOnATinyHost:
    def test_the_record_is_whole(self, tiny: dict[str, Any]) -> None:
        check(json.loads(json.dumps(tiny, allow_nan=False)))

    def test_everything_ran(self, tiny: dict[str, Any]) -> None:
        [run] = tiny["runs"]
        assert not run["left_out"]
        expected = {"host", "host + hooks", tiny["rival"], *figures.TRAINING}
        expected |= {name for one in ARCHITECTURES for name in (f"host + {one}", f"{one} plain")}
        assert expected <= run["ms"].keys()
        assert all(one["median"] > 0 for one in run["ms"].values())
        assert run["ms"]["host"]["rounds"] == 2
        assert run["ms"][tiny["rival"]]["rounds"] == 1
        for one in ("host", "space-clip plain", tiny["rival"]):
            assert all(value > 0 for name, value in tiny["sizes"][one].items() if name != "gflop")

    def test_the_table(self, tiny: dict[str, Any]) -> None:
        [run] = tiny["runs"]
        sizes, _, ratios = cost.table(tiny).partition("\n\n")
        for part, rows in ((sizes, len(run["ms"]) - 3), (ratios, len(run["targets"]) + 2)):
            lines = part.splitlines()
            assert len(lines) == 2 + rows
            assert len({line.count("|") for line in lines}) == 1
        assert f"| host | {tiny['sizes']['host']['parameters'] / 1e6:.2f} | " in sizes


class TestFigures:
    def test_ratios_are_of_the_same_round(
        self,
    ) -> None:
        found = figures.ratio({0: 2.0, 1: 30.0, 2: 1.0}, {0: 1.0, 1: 10.0, 3: 1.0})
        assert found == {"median": 2.5, "quartiles": [2.0, 3.0], "rounds": 2}

    def test_every_case_follows_every_other(
        self,
    ) -> None:
        from turns import turn_order

        for count in (1, 2, 5, 8):
            orders = [turn_order(count, turn) for turn in range(2 * count)]
            assert all(sorted(order) == list(range(count)) for order in orders)
            assert len({(place, case) for order in orders for place, case in enumerate(order)}) == count**2
            followed = [pair for order in orders for pair in itertools.pairwise(order)]
            assert all(followed.count(pair) == 2 for pair in set(followed))
            assert len(set(followed)) == count * (count - 1)

    @pytest.mark.parametrize(
        ("target", "met"),
        [
            ({"at_most": 1.04, "measured": 1.04}, True),
            ({"at_most": 1.04, "measured": 1.05}, False),
            ({"at_least": 25, "measured": 25.0}, True),
            ({"at_least": 25, "measured": 24.9}, False),
            ({"at_least": 25, "measured": None}, False),
        ],
    )
    def test_bounds(self, target: dict[str, Any], met: bool) -> None:
        assert figures.is_met(target) is met

    def test_a_form_that_computes_something_else_is_refused(
        self,
    ) -> None:
        from depth_cases import differences
        from turns import Case

        def grows(which: int) -> torch.Tensor:
            return torch.arange(4.0) * (which + 1)

        right = [Case(name, grows) for name in ("host", "host + x", "x plain", "x compiled")]
        assert differences(right, ["x"], exact=True) == {"host + x": 0.0, "x compiled": 0.0}
        first_again = Case("x fused", lambda which: grows(0))
        with pytest.raises(RuntimeError, match="'x fused' differs from 'x plain' by"):
            differences([*right, first_again], ["x"], exact=True)
        assert differences([*right, first_again], ["x"], exact=False)["x fused"] > 1
        alike = [Case(name, lambda which: grows(0)) for name in ("host", "x plain")]
        with pytest.raises(RuntimeError, match="'host' gives the same for all images"):
            differences(alike, ["x"], exact=True)


class TestCommand:
    def test_refusals(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        for argv, said in (
            (["--device", "cuda"], "finds no CUDA device here; leave it out for the CPU"),
            (["--host", "clip"], "clip-b16"),
            (["--pairs", "0"], "take numbers from 1"),
        ):
            with pytest.raises(SystemExit) as stopped:
                cost.main(argv)
            assert stopped.value.code == 2
            assert said in capsys.readouterr().err

    def test_records_of_other_hosts_lie_elsewhere(
        self,
    ) -> None:
        assert cost.arguments([]).record == cost.RECORD
        assert cost.arguments(["--host", "siglip-so400m"]).record.name == "depth_cost_siglip-so400m_cpu.json"

    @pytest.mark.slow
    def test_table(self, tiny: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "r.json").write_text(json.dumps(tiny))
        cost.main(["--table", "--record", str(tmp_path / "r.json")])
        assert capsys.readouterr().out.strip() == cost.table(tiny)
