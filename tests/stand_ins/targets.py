"""The heads under attack, and what an attack on one of their files is."""

from __future__ import annotations

import json
import random
import struct
from dataclasses import dataclass
from typing import Any

import torch

from spaceclip_plugin import DepthHead, DepthHeadConfig
from spaceclip_plugin.head.space_clip.decoder import SpaceClipOptions
from spaceclip_plugin.head.tap_mixer import TapMixerOptions

LENGTH = struct.Struct("<Q")
# As small as they come, so that every byte of their files can be tried.
CONFIGS = {
    "space-clip": DepthHeadConfig(
        options=SpaceClipOptions((1,), (), channels=(2,), film_hidden=None, auxiliary=False),
        width=2,
        blocks=2,
        depth_range_m=(1.0, 2.0),
    ),
    "tap-mixer": DepthHeadConfig(
        options=TapMixerOptions((1,), channels=(2,), attention=0, convolutions=(0,), uncertainty=False, pixels=0),
        width=2,
        blocks=2,
        depth_range_m=(1.0, 2.0),
    ),
}
# Words that mean something to a file system, a shell, a terminal, Python, a template or a parser, if one listens.
HOSTILE_NAMES = (
    "../../../../etc/passwd", "/etc/passwd", "..\\..\\boot.ini", "C:\\Windows\\win.ini", "\\\\server\\share", "~/.ssh",
    "file:///etc/passwd", "http://127.0.0.1:9/x", "hf://org/name", "config.json", ".", "..", "", " ", "\t", "a\0b",
    "__class__", "__init__", "__reduce__", "__setstate__", "__builtins__", "__proto__", "__metadata__.", "_modules",
    "forward", "training", "decoder", "decoder.", ".decoder", "decoder..norm", "decoder.forward", "self.__dict__",
    "$(touch pwned)", "`touch pwned`", "; touch pwned", "| sh", "%s%n%x", "{0.__class__}", "${jndi:ldap://127.0.0.1/}",
    "__import__('os').system('touch pwned')", "!!python/object/apply:os.system [touch x]", "cos\nsystem\n(S'id'\ntR.",
    "\x1b[2J\x1b]0;pwned\x07", "\u202egnp.exe", "line\nbreak", "\r", "x" * 10_000, "дecoder", "＿＿class＿＿", "🦆",
)  # fmt: skip


@dataclass(frozen=True)
class Forgery:
    """A file as an attacker would have it.

    Attributes:
        kind: the sort of attack, for counting.
        name: what was done, for messages.
        raw: the whole file.
    """

    kind: str
    name: str
    raw: bytes


def target(config: DepthHeadConfig, *, seed: int = 0) -> DepthHead:
    """A head in which no two numbers are equal: tensors that change places do not go unnoticed."""
    head = DepthHead(config).eval()
    numbers = random.Random(seed)
    for name, value in head.state_dict().items():
        if value.is_floating_point():
            value.copy_(torch.tensor([numbers.uniform(0.5, 1.5) for _ in range(value.numel())]).view(value.shape))
        else:
            value.fill_(numbers.randrange(1, 1 << 30))
        assert value.numel(), name
    return head


def split(raw: bytes) -> tuple[bytes, bytes]:
    """The header and the data of a safetensors file."""
    start = LENGTH.size + LENGTH.unpack(raw[: LENGTH.size])[0]
    return raw[LENGTH.size : start], raw[start:]


def joined(header: bytes | dict[str, Any], data: bytes) -> bytes:
    """A file of that header, its length told truly."""
    text = header if isinstance(header, bytes) else json.dumps(header, separators=(",", ":")).encode()
    return LENGTH.pack(len(text)) + text + data


def nested(depth: int, *, objects: bool = False) -> bytes:
    """JSON of so many lists or objects within each other."""
    return b'{"a":' * depth + b"1" + b"}" * depth if objects else b"[" * depth + b"]" * depth
