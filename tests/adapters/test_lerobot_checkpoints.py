"""What is told of a `lerobot:` host before LeRobot itself is needed."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from spaceclip_adapters.hosts import load_lerobot
from spaceclip_adapters.hosts.lerobot_types import NO_TOWER, RELEASES, no_such_type
from spaceclip_plugin.errors import HostError


def written(folder: Path, text: str) -> str:
    (folder / "config.json").write_text(text)
    return str(folder)


@pytest.mark.parametrize("kind", NO_TOWER)
def test_policies_without_a_vision_transformer_are_refused_plainly(kind: str, tmp_path: Path) -> None:
    with pytest.raises(HostError, match=rf"{NO_TOWER[kind][0]}.*no vision transformer.*--host timm:"):
        load_lerobot(written(tmp_path, json.dumps({"type": kind})), random=True)


@pytest.mark.parametrize("name", ["./nowhere", "/no/such/folder", "~/no-such-folder", "one/two/three"])
def test_no_such_folder(name: str) -> None:
    with pytest.raises(HostError, match="there is no folder"):
        load_lerobot(name)


@pytest.mark.parametrize("name", ["nobody/nothing", "what is this"])
def test_nothing_on_the_hub(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(HostError, match=name):
        load_lerobot(name)


def test_a_folder_without_a_config(tmp_path: Path) -> None:
    with pytest.raises(HostError, match=r"has no config\.json"):
        load_lerobot(str(tmp_path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"type": "smol', "not a whole JSON file"),
        ("[]", "holds a list"),
        ("{}", "no `type`"),
        ('{"type": 3}', "no `type`"),
        ('{"model_type": "clip"}', "name it `hf:`"),
    ],
)
def test_a_config_that_is_no_policys(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(HostError, match=message):
        load_lerobot(written(tmp_path, text))


@pytest.mark.skipif(importlib.util.find_spec("lerobot") is not None, reason="lerobot is installed here")
def test_lerobot_is_not_installed(tmp_path: Path) -> None:
    with pytest.raises(HostError, match=r"spaceclip-plugin\[lerobot\]"):
        load_lerobot(written(tmp_path, json.dumps({"type": "smolvla"})))


def test_a_policy_of_another_release_and_one_of_none() -> None:
    known = RELEASES["0.4.4"]
    assert "needs another LeRobot" in str(no_such_type("eo1", "x", installed="0.4.4", known=known))
    assert "0.6.1" in str(no_such_type("eo1", "x", installed="0.4.4", known=known))
    assert "did you mean 'pi05'" in str(no_such_type("pi5", "x", installed="0.4.4", known=known))
