"""What `import spaceclip_plugin` promises: these names, nothing heavy, and one root of all errors."""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest

import spaceclip_plugin
from spaceclip_plugin import errors

NAMES = [
    "DepthAttachment",
    "DepthGuard",
    "DepthHead",
    "DepthHeadConfig",
    "DepthMap",
    "DepthReader",
    "ImageMapping",
    "Intrinsics",
    "SpaceClipError",
    "TowerSpec",
    "attach_depth_head",
    "find_towers",
]
ERRORS = [value for _, value in inspect.getmembers(errors, inspect.isclass) if value.__module__ == errors.__name__]
PACKAGE = Path(spaceclip_plugin.__file__).parent
BACKBONES = {"transformers", "timm", "open_clip"}
HEAVY = {*BACKBONES, "accelerate", "lerobot", "mujoco", "rerun", "onnx"}


def modules_after(statement: str) -> set[str]:
    """Top-level modules that a fresh interpreter holds after a statement."""
    script = f"import sys; {statement}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return set(done.stdout.split())


class TestNames:
    def test_these_and_no_others(self) -> None:
        assert spaceclip_plugin.__all__ == NAMES == sorted(NAMES)

    @pytest.mark.parametrize("name", NAMES)
    def test_each_can_be_imported_and_is_documented(self, name: str) -> None:
        value = getattr(spaceclip_plugin, name)
        assert value.__name__ == name
        assert value.__module__.startswith("spaceclip_plugin.")
        assert inspect.getdoc(value)

    def test_a_star_import_gives_them_all(self) -> None:
        room: dict[str, object] = {}
        exec("from spaceclip_plugin import *", room)
        assert set(NAMES) <= set(room)

    def test_dir_lists_them(self) -> None:
        assert set(dir(spaceclip_plugin)) == {*NAMES, "__version__"}

    def test_another_name_is_an_attribute_error(self) -> None:
        with pytest.raises(AttributeError, match="module 'spaceclip_plugin' has no attribute 'DepthHed'"):
            spaceclip_plugin.DepthHed  # noqa: B018
        with pytest.raises(ImportError, match="cannot import name 'DepthHed'"):
            exec("from spaceclip_plugin import DepthHed")

    def test_type_checkers_see_the_same_names(self) -> None:
        tree = ast.parse((PACKAGE / "__init__.py").read_text())
        [guarded] = [node for node in tree.body if isinstance(node, ast.If)]
        seen = {alias.name: node.module for node in guarded.body for alias in node.names}
        assert sorted(seen) == NAMES
        for name, module in seen.items():
            assert getattr(importlib.import_module(module), name) is getattr(spaceclip_plugin, name)


class TestImports:
    def test_the_package_alone_is_light(self) -> None:
        found = modules_after("import spaceclip_plugin; spaceclip_plugin.__version__; dir(spaceclip_plugin)")
        assert "spaceclip_plugin" in found
        assert not found & {*HEAVY, "torch", "numpy", "einops", "safetensors", "huggingface_hub", "PIL", "tqdm"}

    def test_the_errors_need_no_torch(self) -> None:
        assert not modules_after("from spaceclip_plugin import SpaceClipError") & {*HEAVY, "torch", "numpy"}

    @pytest.mark.slow
    def test_attaching_needs_torch_and_no_backbone_library(self) -> None:
        found = modules_after("import spaceclip_plugin.attach")
        assert "torch" in found
        assert not found & HEAVY
        assert "spaceclip_adapters" not in found  # the core finds adapters by entry points, when a host is given


class TestErrors:
    @pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
    def test_each_is_a_spaceclip_error_in_the_drawn_tree(self, kind: type[Exception]) -> None:
        assert issubclass(kind, spaceclip_plugin.SpaceClipError)
        assert kind.__name__ in (errors.__doc__ or "")
        assert kind.__doc__

    def test_all_are_here(self) -> None:
        assert len(ERRORS) == 13

    @pytest.mark.parametrize(
        ("kind", "builtin"),
        [
            (errors.ConfigError, ValueError),
            (errors.CheckpointError, ValueError),
            (errors.HeadMismatchError, ValueError),
            (errors.DataError, ValueError),
            (errors.CaptureError, RuntimeError),
            (errors.ExportError, RuntimeError),
            (errors.TeacherError, RuntimeError),
            (errors.TrainingError, RuntimeError),
            (errors.TowerNotFoundError, LookupError),
            (errors.AmbiguousTowerError, LookupError),
        ],
    )
    def test_code_that_knows_only_builtin_errors_catches_them(
        self, kind: type[Exception], builtin: type[Exception]
    ) -> None:
        assert issubclass(kind, builtin)

    @pytest.mark.parametrize(
        ("name", "hint"),
        [("widht", " (did you mean 'width'?)"), ("zzz", ""), ("", ""), ("width", " (did you mean 'width'?)")],
    )
    def test_the_nearest_name(self, name: str, hint: str) -> None:
        assert errors.nearest(name, ["width", "blocks"]) == hint
