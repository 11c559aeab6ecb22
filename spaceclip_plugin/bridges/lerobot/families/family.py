"""What is known of policies of one class: where they lay a camera's image in their tower's, and what of theirs does."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from spaceclip_plugin.depth import ImageMapping
from spaceclip_plugin.depth.image_mapping import Anchor


class Step(Protocol):
    """One thing that is done to an image of any size."""

    @property
    def hw(self) -> tuple[int, int]:
        """(H, W) of what it makes."""

    def mapping(self, image_hw: tuple[int, int]) -> ImageMapping:
        """From an image of that size to what this makes of it."""


@dataclass(frozen=True)
class Fit:
    """Resized until it fits, the rest padded."""

    hw: tuple[int, int]
    anchor: Anchor

    def mapping(self, image_hw: tuple[int, int]) -> ImageMapping:
        """See `Step`."""
        return ImageMapping.letterboxed(image_hw, self.hw, anchor=self.anchor)


@dataclass(frozen=True)
class Stretch:
    """Both sides resized."""

    hw: tuple[int, int]

    def mapping(self, image_hw: tuple[int, int]) -> ImageMapping:
        """See `Step`."""
        return ImageMapping.stretched(image_hw, self.hw)


@dataclass(frozen=True)
class Middle:
    """The middle cut out of it; what is smaller is padded. torchvision rounds half a pixel to even, others down."""

    hw: tuple[int, int]
    to_even: bool = True

    def mapping(self, image_hw: tuple[int, int]) -> ImageMapping:
        """See `Step`."""
        over = [image_hw[i] - self.hw[i] for i in (0, 1)]
        top, left = (-(-one // 2) if one < 0 else round(one / 2) if self.to_even else one // 2 for one in over)
        return ImageMapping.stretched(image_hw, image_hw).cropped(top, left, self.hw)


@dataclass(frozen=True)
class Laying:
    """Where photos of any size lie in a policy's tower's image.

    Attributes:
        kind: in words, see `ImagePreparation.kind`.
        steps: what is done to them, one after the other.
    """

    kind: str
    steps: Sequence[Step]

    @property
    def tower_hw(self) -> tuple[int, int]:
        """(H, W) of the tower's image."""
        return self.steps[-1].hw

    def mapping(self, camera_hw: tuple[int, int]) -> ImageMapping:
        """From a camera's image of that size; ConfigError where none can be."""
        mapping = self.steps[0].mapping(camera_hw)
        for step in self.steps[1:]:
            mapping = mapping.compose(step.mapping(mapping.tower_hw))
        return mapping


class Family(ABC):
    """Policies that make their tower's images alike.

    Attributes:
        prepares: what makes them, a name beneath the policy or its module; one with an underscore is private.
        anchor: where the camera's image lies in its padding; None: there is none that tells another camera's shape.
        camera_by_camera: the tower runs once per camera; else all cameras are in one call.
        leaves_out: it does not run for missing cameras beyond `empty_cameras`; others show it blank images.
        follows_camera: the tower's image is of another size for a camera of another shape.
    """

    prepares: str = ""
    anchor: Anchor | None = None
    camera_by_camera: bool = False
    leaves_out: bool = False
    follows_camera: bool = False

    @abstractmethod
    def laying(self, policy: nn.Module) -> Laying | None:
        """Where photos lie; None where the policy's configuration says no size, or more than one image is made of each.

        HostError where what the policy needs for it is not there.
        """

    @abstractmethod
    def show(self, policy: nn.Module, key: str, image: Tensor) -> object:
        """The policy's own images (B, 3, h, w) of those under a key of its batch, (B, 3, H, W) as `normalised` says."""

    def normalised(self, image: Tensor) -> Tensor:
        """The images (B, 3, H, W) in [0, 1] as steps of the preprocessor before the depth step's place leave them."""
        return image

    def lacking(self, policy: nn.Module) -> str:
        """Why `show` does not make what the tower sees, in words for a warning; empty where it does."""
        mode = visual_mode(policy)
        return "" if mode == "IDENTITY" else f"its normalizer treats images by {mode}, before or after its own function"


def visual_mode(policy: nn.Module) -> str:
    """How the policy's normalizer treats images."""
    modes = setting(policy, "normalization_mapping") or {}
    mode = modes.get("VISUAL", "IDENTITY")
    return str(getattr(mode, "value", mode))


def setting(policy: nn.Module, name: str) -> Any:
    """A setting of the policy's configuration; None where it has none."""
    return getattr(getattr(policy, "config", None), name, None)


def camera_sizes(policy: nn.Module) -> list[tuple[int, int]]:
    """(H, W) of the policy's cameras, as its configuration says them."""
    features = setting(policy, "image_features")
    found = map(camera_hw, features.values()) if isinstance(features, Mapping) else ()
    return [hw for hw in found if hw is not None]


def camera_hw(feature: object) -> tuple[int, int] | None:
    """Height and width in the shape of a camera's feature, channels first or last."""
    shape = tuple(getattr(feature, "shape", None) or ())
    if len(shape) != 3:
        return None
    return pair(shape[1:] if shape[0] == 3 else shape[:2] if shape[2] == 3 else None)


def pair(size: object) -> tuple[int, int] | None:
    """A size in a configuration, which files hold as a list."""
    match size:
        case [int(first), int(second)]:
            return first, second
    return None
