"""Two files of a head that were not saved together, or were changed: neither is read as a head."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from head_folders import WEIGHT, edit_config, refused
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from saved_heads import CONFIG, OPTIONS, make_head

from spaceclip_plugin import DepthHead, __version__


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_head().save_pretrained(tmp_path / "head")


class TestInterruptedSave:
    """A process that dies between the two renames leaves the new weights under the old config."""

    def die_between_the_renames(self, folder: Path, head: DepthHead, monkeypatch: pytest.MonkeyPatch) -> None:
        class Death(BaseException):
            pass

        replace = Path.replace

        def replace_weights_only(path: Path, target: Path) -> Path:
            if Path(target) == folder / "config.json":
                raise Death
            return replace(path, target)

        monkeypatch.setattr(Path, "replace", replace_weights_only)
        with pytest.raises(Death):
            head.save_pretrained(folder)
        monkeypatch.undo()

    @pytest.mark.parametrize(
        ("changes", "named"),
        [
            ({"options": dataclasses.replace(OPTIONS, semantic_taps=(6, 2))}, "options.semantic_taps is [5, 3]"),
            ({"blocks": 9}, "blocks is 6, model.safetensors was saved with 9"),
            ({"image_mean": (0.0, 0.0, 0.0)}, "image_mean is [0.1, 0.3"),
        ],
    )
    def test_two_halves_of_equal_shapes_are_no_head(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], named: str
    ) -> None:
        newer = make_head(dataclasses.replace(CONFIG, **changes), seed=1)
        self.die_between_the_renames(folder, newer, monkeypatch)
        message = refused(folder)
        assert "holds two halves" in message
        assert named in message

    def test_new_weights_under_an_equal_config_are_a_head(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.die_between_the_renames(folder, make_head(seed=1), monkeypatch)
        assert torch.equal(
            DepthHead.from_pretrained(folder).state_dict()[WEIGHT], make_head(seed=1).state_dict()[WEIGHT]
        )

    def test_weights_alone_are_no_head(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "new").mkdir()
        self.die_between_the_renames(tmp_path / "new", make_head(), monkeypatch)
        assert "config.json is missing" in refused(tmp_path / "new")

    def test_what_describes_may_be_corrected_by_hand(self, folder: Path) -> None:
        edit_config(folder, trained_on=None, base_model="another name", base_model_revision=None, depth_range_m=[1, 2])
        config = DepthHead.from_pretrained(folder).config
        assert (config.trained_on, config.base_model, config.depth_range_m) == (None, "another name", (1.0, 2.0))

    def test_weights_that_carry_no_digest(self, folder: Path) -> None:
        save_file(load_file(folder / "model.safetensors"), folder / "model.safetensors")
        assert "carries no digest" in refused(folder)

    @pytest.mark.parametrize(
        "note",
        [
            *("", "[1]", "{", "nul", "[" * 100_000, "{}", '{"sha256": "0", "config": "{}", "more": ""}'),
            *('{"config": "{}", "sha256": "0"}', '{"sha256": 3, "config": "{}"}'),
            '{"sha256": "0", "config": "\\ud800"}',
        ],
    )
    def test_a_broken_note_in_the_weights(self, folder: Path, note: str) -> None:
        state = load_file(folder / "model.safetensors")
        save_file(state, folder / "model.safetensors", metadata={"spaceclip": note})
        assert "model.safetensors" in refused(folder)

    def test_metadata_of_others_are_refused(self, folder: Path) -> None:
        path = folder / "model.safetensors"
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
        save_file(load_file(path), path, metadata={**metadata, "format": "pt"})
        assert "expected the one metadata entry 'spaceclip'" in refused(folder)

    def test_a_changed_weight_or_config_in_the_weights(self, folder: Path) -> None:
        path = folder / "model.safetensors"
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        assert "is damaged or was changed" in refused(folder)
        assert whole.count(b"timm:vit") == 1  # descriptive, and still part of what is digested
        path.write_bytes(whole.replace(b"timm:vit", b"timm:bit"))
        assert "is damaged or was changed" in refused(folder)

    def test_what_a_config_says(self, folder: Path) -> None:
        said = json.loads((folder / "config.json").read_text())
        assert (said["plugin_version"], said["format_version"]) == (__version__, 1)
        assert said["tap_fractions"] == [1 / 6, 3 / 6, 5 / 6]
        assert said["base_model_revision"] == "v1.0"
