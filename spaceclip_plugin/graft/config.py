"""What a graft is: the blocks it is grafted on, the bank they read, and the host and head that it was made for."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from typing_extensions import Self

from spaceclip_plugin._checks import build, check_keys, choice, real, shown, text, whole, wholes
from spaceclip_plugin.errors import ConfigError
from spaceclip_plugin.towers.identity.fingerprint import TowerFingerprint

CAMERA, PLACED, IMAGE = FRAMES = ("camera", "placed", "image")
"""What `GraftConfig.frame` may be."""
CELLS = 8  # along each side of a camera's bank
OCTAVES = 8  # of wavelengths that places are told in, from 8 m on
MAX_WIDTH = 1024
HEAD_WIDTH = 32  # channels of an attention head

_MAX_CHANNELS = 1 << 15
_MAX_BLOCKS = 128


@dataclass(frozen=True, kw_only=True)
class GraftConfig:
    """What a `DepthGraft` is, as its file tells it; `DepthGraft.for_policy` makes it.

    Attributes:
        blocks: names of the host's modules whose output is added to.
        widths: channels (in, out) of each.
        cameras: names of those that have a bank.
        look_width: channels of all hidden states together that the head reads, and the bank is made of.
        frame: of the places in the bank: "camera": metres in the camera's own frame; "placed": metres in a frame in
            which the caller places the cameras, such as the gripper's or the robot's base; "image": no metres across,
            but where in the image, for cameras whose lens is not known.
        width: channels of a token, a multiple of 32 up to 1024.
        dropout: share of images whose whole bank is left out of a training step.
        head_digest, blocks_digest: of the head and of the host's blocks, rounded to bfloat16.
        tower_fingerprint: of the host's tower; None where it could not be read.

    Raises:
        ConfigError: a value that cannot be.

    Example:
        >>> GraftConfig(blocks=("expert.0.mlp",), widths=((64, 64),), cameras=("front",), look_width=32,
        ...             head_digest="0" * 64, blocks_digest="1" * 64).width
        128
    """

    blocks: tuple[str, ...]
    widths: tuple[tuple[int, int], ...]
    cameras: tuple[str, ...]
    look_width: int
    head_digest: str
    blocks_digest: str
    tower_fingerprint: TowerFingerprint | None = None
    frame: str = CAMERA
    width: int = 128
    dropout: float = 0.1

    def __post_init__(self) -> None:
        set_ = object.__setattr__
        for name in ("blocks", "cameras"):
            set_(self, name, _names(name, getattr(self, name)))
        if not isinstance(self.widths, (list, tuple)) or len(self.widths) != len(self.blocks):
            raise ConfigError(
                f"widths must be (in, out) of each of the {len(self.blocks)} blocks, {shown(self.widths)}"
            )
        set_(self, "widths", tuple(wholes("widths", pair, 1, _MAX_CHANNELS, length=2) for pair in self.widths))
        whole("look_width", self.look_width, 1, 64 * _MAX_CHANNELS)
        if whole("width", self.width, HEAD_WIDTH, MAX_WIDTH) % HEAD_WIDTH:
            raise ConfigError(f"width must be a multiple of {HEAD_WIDTH}, got {self.width}")
        choice("frame", self.frame, FRAMES)
        set_(self, "dropout", real("dropout", self.dropout, 0.0, 0.9))
        text("head_digest", self.head_digest, max_length=64)
        text("blocks_digest", self.blocks_digest, max_length=64)
        if isinstance(self.tower_fingerprint, Mapping):  # out of a file
            check_keys(TowerFingerprint, self.tower_fingerprint, where="tower_fingerprint", complete=True)
            set_(self, "tower_fingerprint", TowerFingerprint(**self.tower_fingerprint))
        elif not isinstance(self.tower_fingerprint, TowerFingerprint | None):
            raise ConfigError(f"tower_fingerprint must be an object or null, got {shown(self.tower_fingerprint)}")

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """From what `to_dict` gave; ConfigError for a key that is missing or unknown, or a value that cannot be."""
        check_keys(cls, values, where="the config of a graft", complete=True)
        return build(cls, values, where="the config of a graft")


def _names(name: str, values: object) -> tuple[str, ...]:
    if not isinstance(values, (list, tuple)) or not 1 <= len(values) <= _MAX_BLOCKS or len({*values}) != len(values):
        raise ConfigError(f"{name} must be 1 to {_MAX_BLOCKS} different names, got {shown(values)}")
    return tuple(text(f"{name}[{i}]", value) for i, value in enumerate(values))
