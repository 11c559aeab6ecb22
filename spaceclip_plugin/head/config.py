"""What a head is and what it was made for: everything in config.json but the weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from spaceclip_plugin import _checks
from spaceclip_plugin.depth.camera import FocalLength, checked_focal_length, focal_in_words, lens_scale
from spaceclip_plugin.errors import ConfigError
from spaceclip_plugin.head import architectures
from spaceclip_plugin.head.decoder import STANDARD, DecoderOptions, new_options
from spaceclip_plugin.head.familiarity import FamiliarityOptions
from spaceclip_plugin.towers.identity.fingerprint import MAX_BLOCKS, TowerFingerprint
from spaceclip_plugin.towers.spec import CLS, CONTEXT_KINDS, TowerSpec

# Format 2 has a `tower_fingerprint`, formats 3 and 5 what `_SINCE` names, format 4 options that say so
# (`decoder.since`). A config is written in the lowest format that can hold it, which older versions read.
FORMAT_VERSION = 5
_SINCE = {"focal_length": 3, "focal_length_assumed": 3, "familiarity": 3, "preparation": 5}
_FROM_OPTIONS = "(that of the options)"
# Stands for the defaults of whatever architecture it is, and is never in a config that was made.
_DEFAULTS: DecoderOptions = architectures.ARCHITECTURES[architectures.DEFAULT_ARCHITECTURE].options()


@dataclass(frozen=True)
class DepthHeadConfig:
    """A head's architecture and the tower it reads.

    Attributes:
        architecture: a name in `head.architectures.ARCHITECTURES`; by default the one that `options` belong to.
        options: that architecture's settings, taps included; a mapping is checked and converted. By default the
            architecture's own, the taps scaled to the tower.
        width: channels of the tower's tokens, C; where they differ, of its last ones and its context.
        tap_widths: channels of every tap, ascending by tap; None: `width` for all.
        blocks: transformer blocks of the tower; None where unknown (an imported checkpoint).
        context: kind of the tower's global vector (`tower.CONTEXT_KINDS`); None where unknown.
        image_mean, image_std: the tower's input statistics; None where unknown.
        depth_range_m: nearest and farthest depth the head was made for, in metres.
        base_model: what the tower is, for people ("timm:deit_tiny_patch16_224").
        base_model_revision: which version of it (a commit on the Hub); None where unknown.
        trained_on: what the weights were trained on, for people; None: not trained, the depth means nothing.
        tower_fingerprint: of the tower's weights that the head was trained on; None where unknown.
        focal_length: of the camera the head was trained for, over the width and height of the tower's image; images of
            other cameras are read as if taken by it, see `DepthMap.with_intrinsics`. None where unknown.
        focal_length_assumed: whether no training data told it.
        familiarity: what the head knows the images it was trained on by, see `Familiarity`; None: nothing.
        preparation: how those images were laid in the tower's, `ImagePreparation.kind`: "stretch",
            "letterbox:bottom-right". None where unknown.

    Raises:
        ConfigError: a value that its field cannot have, or options of another architecture.

    Example:
        >>> config = DepthHeadConfig(options={"taps": [3, 6], "attention": 0}, width=384, blocks=12)
        >>> config.architecture, config.tap_fractions
        ('tap-mixer', (0.25, 0.5))
        >>> DepthHeadConfig.from_dict(config.to_dict()) == config
        True
    """

    architecture: str = _FROM_OPTIONS
    options: DecoderOptions = _DEFAULTS
    width: int = 768
    tap_widths: tuple[int, ...] | None = None
    blocks: int | None = 12
    context: str | None = CLS
    image_mean: tuple[float, float, float] | None = None
    image_std: tuple[float, float, float] | None = None
    depth_range_m: tuple[float, float] = (1e-3, 10.0)
    base_model: str | None = None
    base_model_revision: str | None = None
    trained_on: str | None = None
    tower_fingerprint: TowerFingerprint | None = None
    focal_length: FocalLength | None = None
    focal_length_assumed: bool = False
    familiarity: FamiliarityOptions | None = None
    preparation: str | None = None

    def __post_init__(self) -> None:
        options = self.options
        if self.architecture == _FROM_OPTIONS:
            object.__setattr__(self, "architecture", architectures.name_for(options))
        kind = architectures.architecture(self.architecture).options
        if options is _DEFAULTS:
            options = kind() if self.blocks is None else kind.for_blocks(_checks.whole("blocks", self.blocks, 1, 512))
        elif isinstance(options, Mapping):
            options = _checks.build(kind, options, where=f"options of {self.architecture!r}")
        if not isinstance(options, kind):
            raise ConfigError(f"options of {self.architecture!r} must be {kind.__name__}, got {type(options).__name__}")
        object.__setattr__(self, "options", options)
        self._check_tower()
        low, high = _checks.reals("depth_range_m", self.depth_range_m, 1e-6, 1e5, length=2)
        if low >= high:
            raise ConfigError(f"depth_range_m must rise, got {self.depth_range_m!r}")
        object.__setattr__(self, "depth_range_m", (low, high))
        for name in ("base_model", "base_model_revision", "trained_on", "preparation"):
            if getattr(self, name) is not None:
                _checks.text(name, getattr(self, name))
        self._check_fingerprint()
        if self.focal_length is not None:
            object.__setattr__(self, "focal_length", checked_focal_length(self.focal_length))
        if _checks.truth("focal_length_assumed", self.focal_length_assumed) and self.focal_length is None:
            raise ConfigError("focal_length_assumed says of a focal_length that no data told it; there is none")
        self._check_familiarity()

    def _check_familiarity(self) -> None:
        found = self.familiarity
        if isinstance(found, Mapping):
            _checks.check_keys(FamiliarityOptions, found, where="familiarity", complete=True)
            found = FamiliarityOptions(**found)
            object.__setattr__(self, "familiarity", found)
        if found is None:
            return
        if not isinstance(found, FamiliarityOptions):
            raise ConfigError(f"familiarity must be an object or null, got {_checks.shown(found)}")
        found.check(self.width_of)

    def _check_fingerprint(self) -> None:
        found = self.tower_fingerprint
        if isinstance(found, Mapping):
            _checks.check_keys(TowerFingerprint, found, where="tower_fingerprint", complete=True)
            found = TowerFingerprint(**found)
            object.__setattr__(self, "tower_fingerprint", found)
        if found is None:
            return
        if not isinstance(found, TowerFingerprint):
            raise ConfigError(f"tower_fingerprint must be an object or null, got {_checks.shown(found)}")
        max_blocks = MAX_BLOCKS if self.blocks is None else self.blocks
        if not self.options.taps[-1] <= len(found.blocks) <= max_blocks:
            raise ConfigError(
                f"tower_fingerprint must have a line for each of the {self.options.taps[-1]} to {max_blocks} blocks "
                f"that the head depends on, got {len(found.blocks)}"
            )

    def _check_tower(self) -> None:
        _checks.whole("width", self.width, 1, 16384)
        if self.blocks is not None:
            _checks.whole("blocks", self.blocks, 1, 512)
            if self.options.taps[-1] > self.blocks:
                raise ConfigError(
                    f"tap {self.options.taps[-1]} lies beyond a tower of {self.blocks} blocks; "
                    f"hidden states run from 0 to {self.blocks}"
                )
        if self.tap_widths is not None:
            count = len(self.options.taps)
            widths = _checks.wholes("tap_widths", self.tap_widths, 1, 16384, length=count)
            object.__setattr__(self, "tap_widths", widths)
        if self.context is not None:
            _checks.choice("context", self.context, CONTEXT_KINDS)
        for name, low in (("image_mean", -10.0), ("image_std", 1e-6)):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, _checks.reals(name, value, low, 1e3, length=3))

    def _check_fractions(self, found: object) -> None:
        expected = self.tap_fractions
        if expected is not None and found is not None:
            found = _checks.reals("tap_fractions", found, 0.0, 1.0, length=len(expected))
        if found != expected:
            raise ConfigError(
                f"tap_fractions must be {expected and list(expected)}, the taps over the blocks, "
                f"got {_checks.shown(found)}"
            )

    @property
    def tap_fractions(self) -> tuple[float, ...] | None:
        """How deep in the tower every tap lies, from 0 (before the first block) to 1; None for an unknown tower."""
        return None if self.blocks is None else tuple(tap / self.blocks for tap in self.options.taps)

    @property
    def width_of(self) -> dict[int, int]:
        """Channels of every tap."""
        taps = self.options.taps
        return dict(zip(taps, self.tap_widths or [self.width] * len(taps), strict=True))

    @classmethod
    def for_tower(
        cls,
        spec: TowerSpec,
        *,
        architecture: str | None = None,
        preset: str = STANDARD,
        options: DecoderOptions | Mapping[str, Any] | None = None,
        base_model: str | None = None,
        trained_on: str | None = None,
    ) -> DepthHeadConfig:
        """A config for that tower; `dataclasses.replace` changes other fields.

        Args:
            spec: the tower.
            architecture: a name in `ARCHITECTURES`; None: the one that `options` belong to, else the default.
            preset: where the settings start from, one of the architecture's `presets`.
            options: settings of the architecture; in a mapping, those that are missing are the preset's, the taps
                scaled to the tower's depth.
            base_model, trained_on: what the config says for people.

        Raises:
            ConfigError: an unknown option, with the architecture that has it or the nearest known one, or an impossible
                value.
        """
        name = architectures.name_for(options) if architecture is None else architecture
        chosen = architectures.architecture(name)
        kind = chosen.options
        start = kind.for_blocks(spec.blocks, _checks.choice(f"preset of {name!r}", preset, chosen.presets))
        settled: Any = start if options is None else options
        if isinstance(options, Mapping):
            for key in options:
                owner = architectures.owner_of(key)
                if owner is not None and key not in architectures.architecture(name).option_names:
                    raise ConfigError(f"{key!r} is an option of {owner!r}; give architecture={owner!r}, not {name!r}")
            _checks.check_keys(kind, options, where=f"options of {name!r}")
            settled = dataclasses.replace(start, **options)
        taps = settled.taps if isinstance(settled, kind) else ()
        return cls(
            architecture=name,
            options=settled,
            width=spec.width,
            tap_widths=spec.widths and tuple(spec.width_of(tap) for tap in taps if tap <= spec.blocks),
            blocks=spec.blocks,
            context=spec.context,
            image_mean=spec.image_mean,
            image_std=spec.image_std,
            base_model=base_model,
            trained_on=trained_on,
        )

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready mapping; `from_dict` gives an equal config back.

        It names the taps twice: as hidden states in the options and, for people, as `tap_fractions`.
        """
        values = dataclasses.asdict(self)
        new = new_options(type(self.options))
        held = [option.version for name, option in new.items() if getattr(self.options, name) != option.before]
        held += [since for name, since in _SINCE.items() if values[name]]
        version = max([1 if self.tower_fingerprint is None else 2, *held])
        for name, option in new.items():
            if option.version > version:
                del values["options"][name]
        for name, since in _SINCE.items():
            if since > version:
                del values[name]
        if version < 2:
            del values["tower_fingerprint"]
        return {"format_version": version, **values, "tap_fractions": self.tap_fractions}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DepthHeadConfig:
        """The config that `to_dict` wrote.

        Raises:
            ConfigError: another format version, an unknown or missing key, or an impossible value.
        """
        if not isinstance(values, Mapping):
            raise ConfigError(f"a head's config must be an object, got {_checks.shown(values)}")
        values = dict(values)
        if "format_version" not in values:
            raise ConfigError("there is no format_version: this is not the config of a depth head")
        version = values.pop("format_version")
        if type(version) is not int or not 1 <= version <= FORMAT_VERSION:
            raise ConfigError(
                f"format_version must be 1 to {FORMAT_VERSION}, got {_checks.shown(version)}; update spaceclip_plugin?"
            )
        has_fingerprint = "tower_fingerprint" in values
        if has_fingerprint != (version > 1) or (version == 2 and not values["tower_fingerprint"]):
            raise ConfigError(f"config: a tower_fingerprint belongs to format 2 and later ones, this is {version}")
        values.setdefault("tower_fingerprint", None)
        for name in (name for name, since in _SINCE.items() if since > version):
            if name in values:
                raise ConfigError(f"config: {name} belongs to format {_SINCE[name]} and later, this is {version}")
            values[name] = False if name == "focal_length_assumed" else None
        if "tap_fractions" not in values:
            raise ConfigError("config: missing key 'tap_fractions'; a saved config names it")
        fractions = values.pop("tap_fractions")
        _checks.check_keys(cls, values, where="config", complete=True)
        options, name = values["options"], values["architecture"]
        if not isinstance(options, Mapping):
            raise ConfigError(f"options must be an object, got {_checks.shown(options)}")
        kind = architectures.architecture(name).options
        options = dict(options)
        for key, option in new_options(kind).items():
            if option.version > version and key in options:
                raise ConfigError(f"config: {key} belongs to format {option.version} and later, this is {version}")
            options.setdefault(key, option.before)  # not all of a format's options came on the same day
        _checks.check_keys(kind, options, where=f"options of {name!r}", complete=True)
        config = cls(**{**values, "options": options})
        config._check_fractions(fractions)
        return config

    def scale_for(self, focal_length: object) -> float:
        """What the head's metres are multiplied by to be those of a camera of that focal length; see `lens_scale`.

        Raises:
            ConfigError: the head does not tell its own, or no camera has that one.
        """
        if self.focal_length is None:
            raise ConfigError(
                "the head does not tell the focal length of the camera it was trained for, so its metres cannot be "
                "brought to another's; leave focal_length out, or train the head again"
            )
        return lens_scale(to=checked_focal_length(focal_length), of=self.focal_length)

    @property
    def camera_in_words(self) -> str:
        """Whose metres the head's depth is in, for people."""
        if self.focal_length is None:
            return "not told"
        assumed = ", assumed: no training data told it" if self.focal_length_assumed else ""
        return f"focal length {focal_in_words(self.focal_length)}{assumed}"

    def mismatches(self, spec: TowerSpec) -> list[str]:
        """Why a head of this config does not fit that tower; empty when it does. Both sides are named."""
        found = []
        if self.width != spec.width:
            found.append(f"the head reads tokens of width {self.width}, the tower's have {spec.width}")
        for tap, width in self.width_of.items():
            if tap <= spec.blocks and self.width == spec.width and width != spec.width_of(tap):
                found.append(f"the head reads {width} channels of hidden state {tap}, it has {spec.width_of(tap)}")
        if self.blocks is not None and self.blocks != spec.blocks:
            found.append(f"the head was made for {self.blocks} blocks, the tower has {spec.blocks}")
        if self.options.taps[-1] > spec.blocks:
            found.append(f"the head taps hidden state {self.options.taps[-1]}, the tower's last is {spec.blocks}")
        if self.options.uses_context and self.context is not None and self.context != spec.context:
            found.append(f"the head reads a {self.context!r} context, the tower gives {spec.context!r}")
        return found
