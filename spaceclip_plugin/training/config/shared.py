"""Settings that commands share: of the host, and of how data is read and scored."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from spaceclip_plugin import _checks
from spaceclip_plugin.errors import ConfigError
from spaceclip_plugin.evaluation import PROTOCOLS, Protocol
from spaceclip_plugin.towers import ImageGeometry, ImageStatistics
from spaceclip_plugin.towers.hosts import RANDOM
from spaceclip_plugin.towers.image_geometry import WAYS
from spaceclip_plugin.training.config.settings import Config, Setting, as_path, choice, floats, real, text, truth


def _weights(name: str, value: object) -> Path | str:
    return RANDOM if value == RANDOM else as_path(name, value)


def _image_hw(name: str, value: object) -> tuple[int, ...]:
    return _checks.wholes(name, value, 1, 16_384, length=2)


def _rgb(purpose: str) -> Setting:
    return Setting(
        lambda name, value: _checks.reals(name, value, -1e6, 1e6, length=3),
        f"{purpose} that its images, in [0, 1], are normalised with (default: what it declares)",
        parse=floats(3),
        metavar="R,G,B",
    )


def _preparation(name: str, value: object) -> str:
    words = _checks.text(name, value)
    if words != HOSTS_OWN:
        ImageGeometry.parse(words)
    return words


def _tower(name: str, value: object) -> str:
    return "" if value == "" else _checks.text(name, value)


def _depth_range(name: str, value: object) -> tuple[float, float]:
    low_m, high_m = _checks.reals(name, value, 1e-6, 1e5, length=2)
    if low_m >= high_m:
        raise ConfigError(f"{name} must rise, got {value!r}")
    return low_m, high_m


HOSTS_OWN = "host"  # photos are prepared as the host prepares its cameras' images


@dataclass(frozen=True)
class HostConfig(Config):
    """Which host, and how it is built, read and placed."""

    host: Annotated[
        str | None,
        text(
            "timm:NAME, open_clip:NAME, hf:ID-or-folder, lerobot:ID-or-folder or python:MODULE:FUNCTION (called "
            "without arguments)",
            "HOST",
        ),
    ] = None
    host_weights: Annotated[
        Path | str | None,
        Setting(
            _weights,
            "safetensors file with the host's weights, or `random` for none, a trial; ./random is a file (default: the "
            "pretrained ones that its name means)",
            metavar="FILE",
        ),
    ] = None
    image_hw: Annotated[
        tuple[int, int] | None,
        Setting(
            _image_hw,
            "pixels that a timm host shall take, its positions interpolated: keeps an aspect ratio (default: its own)",
            "--image-size",
            lambda words: _image_hw("H,W", [int(word) for word in words.split(",")]),
            "H,W",
        ),
    ] = None
    image_mean: Annotated[tuple[float, float, float] | None, _rgb("mean")] = None
    image_std: Annotated[tuple[float, float, float] | None, _rgb("standard deviation")] = None
    preparation: Annotated[
        str,
        Setting(
            _preparation,
            f"how photos become its images: {HOSTS_OWN}, as it does it itself (a stretch where it does not tell), "
            f"{WAYS} (default: {HOSTS_OWN})",
            metavar="HOW",
        ),
    ] = HOSTS_OWN
    tower: Annotated[
        str | None,
        Setting(_tower, "module path of the tower, where the host has several; empty: the host itself", metavar="PATH"),
    ] = None
    adapter: Annotated[str | None, text("adapter to use instead of the one that is found")] = None
    device: Annotated[str | None, text("cpu, cuda, cuda:1, mps (default: cuda where there is one)")] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        ImageStatistics.from_pair(self.image_mean, self.image_std)

    @property
    def geometry(self) -> ImageGeometry | None:
        """How the user says photos become the tower's images; None: as the host does it itself."""
        return None if self.preparation == HOSTS_OWN else ImageGeometry.parse(self.preparation)

    @property
    def statistics(self) -> ImageStatistics | None:
        """What the user says the host's images are normalised with; None: what the host declares."""
        return ImageStatistics.from_pair(self.image_mean, self.image_std)


@dataclass(frozen=True)
class ReadingConfig(Config):
    """How data is read and scored."""

    protocol: Annotated[
        str,
        choice(
            sorted(PROTOCOLS), "depth encoding, crop, mask and range (default: nyu-eigen, 16-bit PNG in millimetres)"
        ),
    ] = "nyu-eigen"
    depth_range_m: Annotated[
        tuple[float, float] | None,
        Setting(
            _depth_range,
            "metres between which depth counts, instead of the protocol's: 0.1,2",
            "--depth-range",
            floats(2),
            "MIN,MAX",
        ),
    ] = None
    units_per_metre: Annotated[
        float | None,
        real(
            1e-3,
            1e6,
            "of integer depth (16-bit PNG, PGM) where a source has no unit of its own (default: the protocol's)",
        ),
    ] = None
    skip_bad: Annotated[bool, truth("leave out samples that cannot be used, and list them")] = False

    @property
    def evaluation(self) -> Protocol:
        """The protocol, for the range of depth that is asked for."""
        protocol = PROTOCOLS[self.protocol]
        return protocol if self.depth_range_m is None else protocol.with_range(*self.depth_range_m)
