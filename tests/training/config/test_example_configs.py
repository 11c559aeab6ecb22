"""The configs that are published as examples: complete, and what their names say."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from spaceclip_plugin.data.sources.depth_list import ListData
from spaceclip_plugin.data.sources.image_folder import FolderData
from spaceclip_plugin.training.config.recipe import RECIPES, Recipe
from spaceclip_plugin.training.config.run_config import HeadChoice, RunConfig

EXAMPLES = sorted((Path(__file__).resolve().parents[3] / "examples" / "training").glob("*.yaml"))
EXAMPLE_RECIPES = {
    "distillation": "recommended",
    "kitti-published": "published-kitti",
    "kitti-recommended": "recommended",
    "nyu-published": "published",
    "nyu-recommended": "recommended",
}


class TestExamples:
    def test_there_are_these(self) -> None:
        assert [path.stem for path in EXAMPLES] == list(EXAMPLE_RECIPES)

    @pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
    def test_each_is_complete_and_says_what_its_recipe_is(self, path: Path) -> None:
        config = RunConfig.from_file(path)
        recipe = EXAMPLE_RECIPES[path.stem]
        assert config.recipe == RECIPES[recipe]
        assert config.head == HeadChoice("space-clip" if recipe.startswith("published") else "tap-mixer")
        assert config.missing == ()
        config.check_validation()
        text = path.read_text()
        assert f"--config examples/training/{path.name}" in text
        for kind in (RunConfig, HeadChoice, Recipe):
            for field in dataclasses.fields(kind):
                assert re.search(rf"^ *{field.name}:", text, re.MULTILINE), field.name

    @pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
    def test_each_is_on_a_tower_with_weights_on_the_hub(self, path: Path) -> None:
        timm = pytest.importorskip("timm")
        config = RunConfig.from_file(path)
        kind, _, name = str(config.host).partition(":")
        assert (kind, config.host_weights) == ("timm", None)
        if "quickgelu" in name and not timm.is_model(name):
            pytest.skip("timm builds CLIP with QuickGELU from 0.9.12 on")
        weights = timm.models.get_pretrained_cfg(name)
        assert "." in name
        assert weights.hf_hub_id.startswith("timm/")

    def test_data_and_protocol(self) -> None:
        found = {path.stem: RunConfig.from_file(path) for path in EXAMPLES}
        protocols = {stem: config.evaluation.name for stem, config in found.items()}
        assert protocols == {
            "distillation": "whole-image 0.1-10 m",
            "kitti-published": "spaceclip-kitti",
            "kitti-recommended": "kitti-eigen",
            "nyu-published": "spaceclip-nyu",
            "nyu-recommended": "nyu-eigen",
        }
        assert [type(part.source) for part in found["distillation"].data] == [FolderData]
        assert found["distillation"].teacher == "hf:depth-anything/Depth-Anything-V2-Metric-Indoor-Small-hf"
        assert [type(part.source) for part in found["distillation"].validation] == [ListData]
