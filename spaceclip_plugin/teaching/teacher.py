"""What a teacher is: a model that gives depth of a photo, and says what its numbers mean; found by entry points."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from spaceclip_plugin import _checks
from spaceclip_plugin.depth import Intrinsics
from spaceclip_plugin.errors import ConfigError, TeacherError, nearest

GROUP = "spaceclip_plugin.teachers"
METRES, INVERSE = "metres", "inverse"
"""What a teacher gives: metres along the optical axis, or inverse depth with an unknown scale and shift."""

_NON_COMMERCIAL = ("-nc", "noncommercial", "non-commercial", "apple-amlr", "apple-ascl", "research")


@dataclass(frozen=True)
class TeacherCard:
    """What is known of a teacher beside its depth: it goes into records and into the model cards of heads.

    Attributes:
        name: "hf:org/name", as a command line has it.
        gives: "metres", or "inverse": inverse depth of unknown scale and shift, which measured depth must anchor.
        weights: SHA-256 (hex) of all that its depth depends on: its weights and what it does to a photo.
        lens: what it makes of a camera's focal length, in a sentence.
        range_m: (nearest, furthest) metres that it can give; None: not known.
        revision: the commit on the Hub that it was loaded from; None: a folder, or not known.
        license: as the Hub names it ("apache-2.0"); None: not said.

    Raises:
        ConfigError: a value that cannot be.

    Example:
        >>> card = TeacherCard("hf:lab/depth", "metres", "5f1e", lens="takes none", license="cc-by-nc-4.0")
        >>> card.metric, card.commercial
        (True, False)
    """

    name: str
    gives: str
    weights: str
    lens: str
    range_m: tuple[float, float] | None = None
    revision: str | None = None
    license: str | None = None

    def __post_init__(self) -> None:
        for name in ("name", "weights", "lens"):
            _checks.text(name, getattr(self, name))
        _checks.choice("gives", self.gives, (METRES, INVERSE))
        for name in ("revision", "license"):
            if getattr(self, name) is not None:
                _checks.text(name, getattr(self, name))
        if self.range_m is not None:
            low_m, high_m = _checks.reals("range_m", self.range_m, 0.0, 1e6, length=2)
            object.__setattr__(self, "range_m", (low_m, high_m))

    @property
    def metric(self) -> bool:
        """Whether it gives metres by itself."""
        return self.gives == METRES

    @property
    def commercial(self) -> bool | None:
        """Whether its licence lets what it taught be used commercially, as far as its name tells; None: not said."""
        if self.license is None or self.license in ("other", "unknown"):
            return None
        return not any(word in self.license.lower() for word in _NON_COMMERCIAL)

    @property
    def terms(self) -> str:
        """Its terms, in a sentence."""
        if self.license is None:
            return f"{self.name} states no licence: look for its terms before you share what it taught."
        if self.commercial is None:
            return f"{self.name} is under terms of its own ({self.license}): read them before you share what it taught."
        if not self.commercial:
            return f"{self.name} is non-commercial ({self.license}): so is, by its terms, what it taught."
        return f"{self.name} is under {self.license}."

    def to_mapping(self) -> dict[str, Any]:
        """As JSON, which `from_mapping` reads; its terms stand there, too."""
        return {**dataclasses.asdict(self), "commercial": self.commercial, "terms": self.terms}

    @classmethod
    def from_mapping(cls, values: object) -> TeacherCard:
        """From JSON; ConfigError for anything else."""
        if not isinstance(values, Mapping):
            raise ConfigError(f"a teacher is described by a mapping, got {_checks.shown(values)}")
        own = {key: value for key, value in values.items() if key not in ("commercial", "terms")}
        _checks.check_keys(cls, own, where="a teacher", complete=True)
        return cls(**own)


class DepthTeacher(Protocol):
    """A model that gives depth of photos.

    Others than transformers' (Depth Anything 3, MoGe, UniDepth) are one file and one entry point in the group
    `spaceclip_plugin.teachers`: a function `(name, *, device) -> DepthTeacher`, named by its scheme.

    Example:
        >>> class Wall:
        ...     card = TeacherCard("wall:2", "metres", "of no weights", lens="takes none")
        ...     def depth(self, photos, intrinsics):
        ...         return np.full(photos.shape[:3], 2.0, np.float32)
        >>> teacher: DepthTeacher = Wall()
        >>> float(teacher.depth(np.zeros((1, 4, 6, 3), np.uint8), [None]).mean())
        2.0
    """

    @property
    def card(self) -> TeacherCard:
        """What is known of it."""

    def depth(self, photos: npt.NDArray[np.uint8], intrinsics: Sequence[Intrinsics | None]) -> npt.NDArray[np.float32]:
        """Depth of photos of one size.

        Args:
            photos: (N, H, W, 3) uint8 RGB, upright.
            intrinsics: of each photo at that size, where known; it says in `card.lens` what it does with them.

        Returns:
            (N, H, W) float32: metres along the optical axis, in those of the photo's camera where that is known; or
            inverse depth, see `card.gives`. 0 or infinite where it does not know.
        """


def load_teacher(name: str, *, device: torch.device | str = "cpu") -> DepthTeacher:
    """The teacher that a name means, in eval mode on a device.

    Args:
        name: `SCHEME:MODEL`, as hf:org/name; the schemes are the entry points of the group `spaceclip_plugin.teachers`.
        device: where it runs.

    Raises:
        TeacherError: an unknown scheme, or a teacher that cannot be had.

    Example:
        >>> from spaceclip_plugin.errors import TeacherError
        >>> try:
        ...     load_teacher("huggingface:org/name")
        ... except TeacherError as error:
        ...     print(str(error).split(";")[0])
        unknown teacher 'huggingface:org/name'
    """
    loaders = {point.name: point for point in metadata.entry_points(group=GROUP)}
    scheme, _, model = name.partition(":")
    if not model or scheme not in loaders:
        known = ", ".join(f"{kind}:NAME" for kind in sorted(loaders)) or "none, for no package registers any"
        raise TeacherError(f"unknown teacher {name!r}{nearest(scheme, loaders)}; a teacher is one of {known}")
    load: Callable[..., DepthTeacher] = loaders[scheme].load()
    return load(model, device=torch.device(device))
