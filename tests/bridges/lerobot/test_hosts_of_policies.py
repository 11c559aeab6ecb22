"""`--host lerobot:`: every policy with a vision transformer from its own checkpoint, clear errors for what is none."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

pytest.importorskip("lerobot.policies", reason="needs lerobot, in an environment of its own: make test-lerobot")

import lerobot
from hosted_policies import HOSTED, HostedPolicy
from row_policies import SMOLVLA, small_smolvla

from spaceclip_adapters.hosts import load_lerobot
from spaceclip_plugin.cli import main
from spaceclip_plugin.errors import HostError
from spaceclip_plugin.towers.registry import find_tower

LARGE = 7.0


def state(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


@pytest.fixture(scope="module", params=HOSTED, ids=lambda hosted: hosted.kind)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[HostedPolicy, Path, Any]:
    hosted: HostedPolicy = request.param
    folder = tmp_path_factory.mktemp(hosted.kind)
    try:
        return hosted, folder, hosted.saved(folder)
    except ImportError as error:
        pytest.skip(f"{hosted.kind} needs more than is installed: {error}")


class TestEveryPolicy:
    def test_its_own_weights_frozen_and_one_tower(
        self, case: tuple[HostedPolicy, Path, Any], record_property: Callable[[str, object], None]
    ) -> None:
        hosted, folder, policy = case
        with hosted.sizes():
            host = load_lerobot(str(folder))
        assert type(host) is type(policy)
        assert not any(module.training for module in host.modules())
        assert not any(parameter.requires_grad for parameter in host.parameters())
        theirs, ours = policy.state_dict(), host.state_dict()
        assert theirs.keys() == ours.keys()
        for name, value in theirs.items():
            assert ours[name].dtype == value.dtype, name
            assert torch.equal(ours[name], value), name
        tower = find_tower(host)
        assert (tower.spec.adapter, tower.spec.path) == (hosted.adapter, hosted.path)
        found = {"policy": hosted.kind, "host": type(host).__name__, "tower": type(tower.module).__name__}
        for name, value in {**found, "adapter": tower.spec.adapter}.items():
            record_property(name, value)

    def test_random_weights_where_asked_for(
        self, case: tuple[HostedPolicy, Path, Any], caplog: pytest.LogCaptureFixture
    ) -> None:
        hosted, folder, policy = case
        before = torch.get_rng_state()
        with caplog.at_level(logging.WARNING, logger="spaceclip_adapters"), hosted.sizes():
            host = load_lerobot(str(folder), random=True)
        assert torch.equal(torch.get_rng_state(), before)
        assert "random weights" in caplog.text
        ours, theirs = find_tower(host).module.state_dict(), find_tower(policy).module.state_dict()
        drawn = [name for name, value in theirs.items() if value.ndim > 1 and not torch.equal(value, ours[name])]
        assert drawn

    def test_under_the_names_of_openpi(self, case: tuple[HostedPolicy, Path, Any], tmp_path: Path) -> None:
        hosted, folder, policy = case
        if not hasattr(policy, "_fix_pytorch_state_dict_keys"):
            pytest.skip("it has no weights of openpi")
        theirs = load_file(folder / "model.safetensors")
        save_file({name.removeprefix("model."): value for name, value in theirs.items()}, tmp_path / "pi.safetensors")
        with hosted.sizes():
            host = load_lerobot(str(folder), tmp_path / "pi.safetensors")
        ours, expected = host.state_dict(), policy.state_dict()
        assert all(torch.equal(ours[name], value) for name, value in expected.items())


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("smolvla")
    SMOLVLA.seeded().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(kept: Path, tmp_path: Path) -> Path:
    """A checkpoint of SmolVLA to be spoilt."""
    for file in ("config.json", "model.safetensors"):
        (tmp_path / file).write_bytes((kept / file).read_bytes())
    return tmp_path


def load(folder: Path, weights: Path | None = None) -> nn.Module:
    with small_smolvla():
        return load_lerobot(str(folder), weights)


def spoil(folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    save_file(change(load_file(folder / "model.safetensors")), folder / "model.safetensors")


TOWER = f"{SMOLVLA.path}.encoder.layers.1.layer_norm1.weight"


class TestWeights:
    def test_a_file_of_the_users(self, folder: Path, tmp_path: Path) -> None:
        changed = load_file(folder / "model.safetensors")
        changed[TOWER] = torch.full_like(changed[TOWER], LARGE)
        save_file(changed, tmp_path / "mine.safetensors")
        (folder / "model.safetensors").unlink()
        assert (load(folder, tmp_path / "mine.safetensors").state_dict()[TOWER] == LARGE).all()

    def test_missing_says_what_to_do(self, folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        with pytest.raises(HostError, match=r"no model.safetensors\..*--host-weights random"):
            load(folder)

    def test_an_interrupted_download(self, folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        (folder / ".cache").mkdir()
        (folder / ".cache" / "abc.incomplete").touch()
        with pytest.raises(HostError, match="interrupted"):
            load(folder)

    def test_cut_short(self, folder: Path) -> None:
        file = folder / "model.safetensors"
        file.write_bytes(file.read_bytes()[:-100])
        with pytest.raises(HostError, match="not a whole safetensors file"):
            load(folder)

    def test_a_block_that_the_tower_lacks_weights_for(self, folder: Path) -> None:
        spoil(folder, lambda given: {name: value for name, value in given.items() if name != TOWER})
        with pytest.raises(HostError, match=TOWER):
            load(folder)

    def test_a_block_more_than_the_tower_has(self, folder: Path) -> None:
        more = TOWER.replace("layers.1", "layers.9")
        spoil(folder, lambda given: {**given, more: given[TOWER].clone()})
        with pytest.raises(HostError, match=more):
            load(folder)

    def test_another_shape(self, folder: Path) -> None:
        spoil(folder, lambda given: {**given, TOWER: torch.zeros(3)})
        with pytest.raises(HostError, match=rf"{TOWER} \(3,\)"):
            load(folder)

    def test_another_model_altogether(self, folder: Path) -> None:
        save_file({"weight": torch.zeros(3)}, folder / "model.safetensors")
        with pytest.raises(HostError, match="unexpected weight"):
            load(folder)

    def test_what_lies_outside_of_the_tower_may_be_missing_or_more(
        self, folder: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """As the statistics that policies of older LeRobots carried in their weights."""
        statistics = "normalize_inputs.buffer_observation_state.mean"
        lost = "model.action_out_proj.weight"

        def change(given: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            return {statistics: torch.zeros(3), **{name: value for name, value in given.items() if name != lost}}

        spoil(folder, change)
        host = load(folder)
        assert statistics in caplog.text
        assert lost not in host.state_dict()

    def test_an_adapter_of_peft_is_no_policy(self, folder: Path) -> None:
        rewrite(folder, use_peft=True)
        with pytest.raises(HostError, match="adapter of PEFT"):
            load(folder)


def rewrite(folder: Path, **changed: object) -> None:
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, **changed}))


class TestConfigs:
    def test_an_unknown_type_is_told_the_nearest(self, folder: Path) -> None:
        rewrite(folder, type="smolvl")
        with pytest.raises(HostError, match=r"'smolvl' \(did you mean 'smolvla'\?\)"):
            load(folder)

    def test_a_policy_of_another_lerobot(self, folder: Path) -> None:
        missing = "sarm" if lerobot.__version__ > "0.5" else "eo1"
        rewrite(folder, type=missing)
        with pytest.raises(HostError, match=rf"needs another LeRobot.*'{missing}'"):
            load(folder)

    def test_a_setting_that_this_lerobot_does_not_have(self, folder: Path) -> None:
        rewrite(folder, from_the_future=1)
        with pytest.raises(HostError, match=rf"LeRobot {lerobot.__version__} cannot build.*from_the_future"):
            load(folder)

    def test_what_it_was_made_of_is_not_to_be_had(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        rewrite(folder, vlm_model_name="nobody/nothing")
        with pytest.raises(HostError, match="nobody/nothing"):
            load_lerobot(str(folder))

    def test_a_device_that_is_not_here_is_not_asked_for(self, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
        rewrite(folder, device="cuda", compile_model=True)
        assert {parameter.device.type for parameter in load(folder).parameters()} == {"cpu"}
        assert "not available" not in caplog.text


def test_on_the_command_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with small_smolvla():
        assert main(["inspect", f"lerobot:{folder}", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["host"] == "SmolVLAPolicy"
    assert [tower["path"] for tower in told["towers"]] == [SMOLVLA.path]
