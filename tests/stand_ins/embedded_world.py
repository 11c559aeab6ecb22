"""A package with one embedded head: made for a small tower of random weights, trained on rendered scenes, packed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from embed_head import Words, embed
from safetensors.torch import save_file

from spaceclip_plugin.cli import main
from spaceclip_plugin.head.embedded import catalogue
from spaceclip_plugin.towers import load_host

HOST = "timm:vit_tiny_patch16_224"  # the smallest that every timm has
NAME = "scenes-tiny-vit"
HEAD = f"embedded:{NAME}"
WORDS = Words(
    command=f"spaceclip train --host {HOST} --host-weights tower.safetensors --data scenes:6:0 --val scenes:2:1",
    license="apache-2.0",
    data_license="Rendered here, ours.",
    tower="Random weights, which are nobody's.",
)


def finished_run(folder: Path) -> Path:
    """A run of one epoch, and beside it tower.safetensors, the weights of its host; trained once for all tests."""
    if (folder / "run").is_dir():
        return folder / "run"
    folder.mkdir()
    save_file(load_host(HOST, weights="random").state_dict(), folder / "tower.safetensors")
    host = ["--host", HOST, "--host-weights", str(folder / "tower.safetensors"), "--device", "cpu"]
    data = ["--data", "scenes:6:0", "--val", "scenes:2:1", "--protocol", "whole-image", "--depth-range", "0.1,10"]
    head = ["--set", "channels=[32,16]", "--set", "convolutions=[1,1]"]
    recipe = ["--epochs", "1", "--views", "1", "--features", "none", "--out", str(folder / "run")]
    assert main(["train", *host, *data, *head, *recipe]) == 0
    return folder / "run"


@contextmanager
def package_in(folder: Path) -> Iterator[Path]:
    """While it lasts, embedded heads are those in an empty folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(catalogue, "FOLDER", folder)
        yield folder


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder with the run and its tower's weights; its head is embedded, and no other."""
    folder = tmp_path_factory.getbasetemp() / "embedded-world"
    run = finished_run(folder)
    with package_in(tmp_path_factory.mktemp("embedded")):
        embed(run, NAME, WORDS)
        yield folder
