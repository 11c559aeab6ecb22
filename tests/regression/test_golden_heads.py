"""Heads of every released file format stay readable and give the depth they gave: the files here never change."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from spaceclip_plugin import DepthHead
from spaceclip_plugin.head.architectures import ARCHITECTURES
from spaceclip_plugin.head.config import FORMAT_VERSION
from spaceclip_plugin.head.decoder import new_options
from spaceclip_plugin.towers.spec import TowerFeatures

GOLDEN = Path(__file__).with_name("golden")
OF_ALL = (1, 2, 3, 5)  # other formats came with options of single architectures, and no other head is written in them
HEADS = sorted(path.parent for path in GOLDEN.glob("*/*/golden.safetensors"))
FILES = {
    "format-1/space-clip/config.json": "83f676f757e4db1bb6160644b6312626436a3438a18ad3292604acec7bfc28ae",
    "format-1/space-clip/golden.safetensors": "5cb7a400556090f25c160c7d49ad7142c75cf8926af5d0e851bd2da5ba0254ea",
    "format-1/space-clip/model.safetensors": "fb2a5b6045a9acbfcd9b2bec35327a5b7beb32e43d24a6e4ecc190ff8e7c44cd",
    "format-1/tap-mixer/config.json": "093233b2813343222c99fe25ea3d695d99ea5934082b0e52e8321132f1ad5563",
    "format-1/tap-mixer/golden.safetensors": "b1966c07d8d1e5b9e0ee4cb5b8426f28387f3150054c1f5f94993deb298e3ad8",
    "format-1/tap-mixer/model.safetensors": "0896a21ba87d0b729e94cd3ef905df48cbfba422e9cecb87b1684eae8c1e273e",
    "format-2/space-clip/config.json": "9d45c8d55921cbfd1b36671f41abe156b20dce8b736cb4cf37564f1a9cd1780d",
    "format-2/space-clip/golden.safetensors": "f218c76e01e0177f51707a05a81a7ec1f9e901b0efca8a6b8357efb28304e32d",
    "format-2/space-clip/model.safetensors": "7bf3967df18c508be6e13e1dd995f10ec71573e066c2964edd7fa57febb4c621",
    "format-2/tap-mixer/config.json": "e0855271dd408381042c7bbf905a2aba6101589c6d10bb59616f1ae66fefca38",
    "format-2/tap-mixer/golden.safetensors": "a2d2f765a115b882d8fe7c5fc453ca6cf612d54efafe3531a6ed78a7d8fb54c9",
    "format-2/tap-mixer/model.safetensors": "cd3e29a0322f20a9b073ad0537ecbb326d4ac59d2112ac7245876ed71c48dede",
    "format-3/space-clip/config.json": "7b6413c33751f7a2463c393dbe09ec9ba0daf3971110b44bde8ce4fb172af136",
    "format-3/space-clip/golden.safetensors": "17ac70c7df5f6c9d5929651dc02ed916c0415b48c5283b36e5a2b18f7f7e1ece",
    "format-3/space-clip/model.safetensors": "9abcebb89e49ce81e67560fcd2f586d452b1b2eddbe408a1a9bc95e57535f8af",
    "format-3/tap-mixer/config.json": "ee4e712ccf519674fc1251fdaa445b84b1c88fe2282dc3e629b84de45a8ecc4e",
    "format-3/tap-mixer/golden.safetensors": "c1b67c429c4e832e4d9487f63eb4feb3e8bfd98ff5280635551190c7a575ea88",
    "format-3/tap-mixer/model.safetensors": "54ba18766c2ee1aad7b475ceca4bd19d09699493b9355ab2f34b4f721552e1e5",
    "format-4/tap-mixer/config.json": "a1e00885ad726168cce0c140ac4ae214d4cc883caf3411e959f89a12b9e6e42f",
    "format-4/tap-mixer/golden.safetensors": "a327a6b8132bcf42d05161b7c4513a4be10f8f5ab3b4b5868b3499d0b898e1d4",
    "format-4/tap-mixer/model.safetensors": "4305ab3f98ea494028203936f7be4cbdd664c58acc131b4015e89d1f4c072c45",
    "format-5/space-clip/config.json": "e1f7cb9be29ff681db246d26e962c1fc82374539e1c36f00a08e6d9da0829089",
    "format-5/space-clip/golden.safetensors": "6305d941edbc5bde8287eeb3074f73d04f08655358dc0401c21217059d62caae",
    "format-5/space-clip/model.safetensors": "0c2c311af1cedce22b508449ef37eadcfa4e271358b793168255baad8b4efbc1",
    "format-5/tap-mixer/config.json": "88b041c7d49be46efc1b2ef1abb144a420b95be41aed8b8f6c8aaf52d377e75d",
    "format-5/tap-mixer/golden.safetensors": "a327a6b8132bcf42d05161b7c4513a4be10f8f5ab3b4b5868b3499d0b898e1d4",
    "format-5/tap-mixer/model.safetensors": "6701a2c4f01fa22646259218cbb23f56cbd1b3a8cf0b9cdfd5e58d62bdd642b9",
}
"""SHA-256 of every file: a golden file that is made anew is not golden."""


def test_the_files_are_those_that_were_released() -> None:
    found = {path.relative_to(GOLDEN).as_posix(): path for path in GOLDEN.rglob("*") if path.is_file()}
    assert {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in found.items()} == FILES


def test_every_format_and_architecture_has_one() -> None:
    wanted = {(f"format-{version}", name) for version in OF_ALL for name in ARCHITECTURES}
    for name, kind in ARCHITECTURES.items():
        wanted |= {(f"format-{option.version}", name) for option in new_options(kind.options).values()}
    assert {(path.parent.name, path.name) for path in HEADS} == wanted
    assert f"format-{FORMAT_VERSION}" in {path.parent.name for path in HEADS}


@pytest.mark.parametrize("folder", HEADS, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_the_depth_is_what_it_was(folder: Path) -> None:
    golden = load_file(folder / "golden.safetensors")
    hidden = {int(name.removeprefix("hidden_")): golden.pop(name) for name in list(golden) if name.startswith("hidden")}
    features = TowerFeatures(hidden, golden.pop("context"), (32, 40), pixels=golden.pop("pixels", None))
    head = DepthHead.from_pretrained(folder)
    assert head.config.trained_on == "nothing: random numbers, kept to see that files stay readable"
    assert (head.config.tower_fingerprint is not None) == (folder.parent.name != "format-1")
    with torch.no_grad():
        output = vars(head(features, (40, 56)))
    version = int(folder.parent.name.removeprefix("format-"))
    assert head.config.to_dict()["format_version"] == version
    assert head.uses_pixels == (folder.name == "tap-mixer" and version >= 4)
    assert (head.familiarity is not None) == (head.config.focal_length is not None) == (version >= 3)
    assert head.config.preparation == ("letterbox:bottom-right" if version >= 5 else None)
    if head.familiarity is not None:
        output["distance"] = head.familiarity.distance(hidden[head.familiarity.options.tap].mean(dim=(2, 3)))
    assert "depth_m" in golden
    for name, expected in golden.items():
        assert expected.std() > 1e-3 * expected.abs().mean()  # a constant would prove nothing
        torch.testing.assert_close(output[name], expected, rtol=1e-4, atol=1e-5)
