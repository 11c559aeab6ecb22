"""Everything `spaceclip train` needs to know, as one checked object and as the file `config.yaml`."""

from __future__ import annotations

import dataclasses
import os.path
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spaceclip_plugin import _checks
from spaceclip_plugin.data.sources.registry import parse_source, source_mapping
from spaceclip_plugin.data.sources.spec import SourceSpec, checked_units
from spaceclip_plugin.errors import ConfigError
from spaceclip_plugin.evaluation import PROTOCOLS, Protocol
from spaceclip_plugin.head.architectures import DEFAULT_ARCHITECTURE, architecture
from spaceclip_plugin.towers.hosts import RANDOM
from spaceclip_plugin.towers.image_statistics import ImageStatistics
from spaceclip_plugin.training.config.recipe import Recipe
from spaceclip_plugin.training.config.strict_yaml import read_mapping, read_mapping_file, write_mapping
from spaceclip_plugin.training.processes import TRACKERS
from spaceclip_plugin.training.selection import named_like_a_test_set

CODE = "python:"
"""A host that starts with this is a function of the user's, which is called to get it."""

_NEEDED = ("host", "data", "validation")
_LISTS = ("data", "validation", "test")
_HEADER = """\
# Settings of a run of `spaceclip train`. The same run again: spaceclip train --config THIS_FILE --out NEW_FOLDER
# A run that was stopped goes on with: spaceclip train --resume FOLDER
"""


@dataclass(frozen=True)
class WeightedSource:
    """Data, and how much of what training sees comes from it.

    Attributes:
        source: which data.
        weight: its share, in any unit that the weights beside it have; None: by size.
    """

    source: SourceSpec
    weight: float | None = None

    def __post_init__(self) -> None:
        source_mapping(self.source)  # refuses what is no kind of data
        if self.weight is not None:
            _checks.real("weight", self.weight, 1e-9, 1e9)


@dataclass(frozen=True)
class HeadChoice:
    """Which head is trained.

    Attributes:
        architecture: a name in `head.architectures.ARCHITECTURES`.
        options: those of its options that shall not be what the tower suggests; lists, numbers, booleans and None.
    """

    architecture: str = DEFAULT_ARCHITECTURE
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        kind = architecture(self.architecture).options
        if not isinstance(self.options, Mapping):
            raise ConfigError(f"options must be a mapping of settings, got {_checks.shown(self.options)}")
        _checks.build(kind, self.options, where=f"options of {self.architecture!r}")
        plain = {key: list(value) if isinstance(value, tuple) else value for key, value in self.options.items()}
        object.__setattr__(self, "options", plain)


@dataclass(frozen=True)
class RunConfig:
    """Settings of one training run, each of them checked; the folder of the run is not among them.

    Host, data and validation may be left open, for a command line to fill in; see `missing`.

    Attributes:
        host: "timm:NAME", "hf:ID-or-folder", "open_clip:NAME" or "python:MODULE:FUNCTION".
        host_weights: safetensors file with the host's weights, or "random"; None: the pretrained ones of its name.
        image_hw: (height, width) in pixels of the images the host shall be built for; None: its own size.
        image_mean, image_std: what the host's images, in [0, 1], are normalised with, three numbers each in the order
            R, G, B; None: what the host declares. Both or neither.
        tower: module path of the tower, where the host has several.
        adapter: name of the adapter; None: the one that is found.
        device: name of a PyTorch device; None: CUDA where there is one, with several processes one each.
        protocol: a name in `evaluation.protocols.PROTOCOLS`: depth encoding, crop, mask and range.
        depth_range_m: (nearest, farthest) depth in metres instead of the protocol's; None: the protocol's.
        units_per_metre: of integer depth where a source has no unit of its own; None: the protocol's.
        data: what the head learns from; several are mixed by their weights, all given or none.
        validation: what the best epoch is chosen on; has no weights.
        test: what the best head is scored on once, at the end; empty: nothing. Has no weights.
        skip_bad: leave out samples that cannot be used instead of stopping.
        head: which head is trained.
        recipe: how it is trained.
        workers: processes that read data ahead; 0: none. From here to `log_with`, nothing changes the result.
        save_every: steps between checkpoints, besides one at the end of each epoch; None: only those.
        cache: folder for the tower's features, which other runs on the same data find there; None: the run's own.
        log_with: a name in `training.processes.TRACKERS`; None: only the run's own files.
        select_on_test: whether validation data may be a test set, see `check_validation`.
    """

    host: str | None = None
    host_weights: Path | str | None = None
    image_hw: tuple[int, int] | None = None
    image_mean: tuple[float, float, float] | None = None
    image_std: tuple[float, float, float] | None = None
    tower: str | None = None
    adapter: str | None = None
    device: str | None = None
    protocol: str = "nyu-eigen"
    depth_range_m: tuple[float, float] | None = None
    units_per_metre: float | None = None
    data: tuple[WeightedSource, ...] = ()
    validation: tuple[WeightedSource, ...] = ()
    test: tuple[WeightedSource, ...] = ()
    skip_bad: bool = False
    head: HeadChoice = field(default_factory=HeadChoice)
    recipe: Recipe = field(default_factory=Recipe)
    workers: int = 0
    save_every: int | None = None
    cache: Path | None = None
    log_with: str | None = None
    select_on_test: bool = False

    def __post_init__(self) -> None:
        for name in ("host", "adapter", "device"):
            if getattr(self, name) is not None:
                _checks.text(name, getattr(self, name))
        if self.tower:  # the empty path is the host itself
            _checks.text("tower", self.tower)
        elif self.tower is not None and self.tower != "":
            raise ConfigError(f"tower must be the path of a module, got {_checks.shown(self.tower)}")
        for name in ("host_weights", "cache"):
            if getattr(self, name) is not None and (name, getattr(self, name)) != ("host_weights", RANDOM):
                _check_path(name, getattr(self, name))
        for name in ("image_mean", "image_std"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, _checks.reals(name, getattr(self, name), -1e6, 1e6, length=3))
        ImageStatistics.from_pair(self.image_mean, self.image_std)
        for name in ("skip_bad", "select_on_test"):
            _checks.truth(name, getattr(self, name))
        for name in _LISTS:
            _check_sources(name, getattr(self, name))
        if self.image_hw is not None:
            height, width = _checks.wholes("image_hw", self.image_hw, 1, 16_384, least=2, most=2)
            object.__setattr__(self, "image_hw", (height, width))
        if self.depth_range_m is not None:
            low_m, high_m = _checks.reals("depth_range_m", self.depth_range_m, 1e-6, 1e5, length=2)
            if low_m >= high_m:
                raise ConfigError(f"depth_range_m must rise, got {self.depth_range_m!r}")
            object.__setattr__(self, "depth_range_m", (low_m, high_m))
        object.__setattr__(self, "units_per_metre", checked_units(self.units_per_metre))
        _checks.choice("protocol", self.protocol, PROTOCOLS)
        for name, kind in (("head", HeadChoice), ("recipe", Recipe)):
            if not isinstance(getattr(self, name), kind):
                raise ConfigError(f"{name} must be a {kind.__name__}, got {_checks.shown(getattr(self, name))}")
        _checks.whole("workers", self.workers, 0, 1_024)
        if self.save_every is not None:
            _checks.whole("save_every", self.save_every, 1, 10**9)
        if self.log_with is not None:
            _checks.choice("log_with", self.log_with, TRACKERS)

    @property
    def statistics(self) -> ImageStatistics | None:
        """What the user says the host's images are normalised with; None: what the host declares."""
        return ImageStatistics.from_pair(self.image_mean, self.image_std)

    @property
    def evaluation(self) -> Protocol:
        """The protocol, for the range of depth that is asked for."""
        protocol = PROTOCOLS[self.protocol]
        return protocol if self.depth_range_m is None else protocol.with_range(*self.depth_range_m)

    @property
    def missing(self) -> tuple[str, ...]:
        """The fields that no run goes without and that are still open."""
        return tuple(name for name in _NEEDED if not getattr(self, name))

    def check_validation(self) -> None:
        """Check that no epoch is chosen on a test set: figures on it would say less than they seem to.

        A test set is told by its name alone, see `selection`.

        Raises:
            ConfigError: validation data is named like a test set and `select_on_test` is not set.
        """
        if self.select_on_test:
            return
        for part in self.validation:
            if named_like_a_test_set(part.source.resolved(Path.cwd())):
                raise ConfigError(
                    f"validation data {part.source.title!r} is named like a test set, and the best epoch is chosen on "
                    "it: hold images of the training set out for validation and give this as test data (--test), or "
                    "set select_on_test (--select-on-test), which the record of the run will say"
                )

    @classmethod
    def from_yaml(cls, text: str, *, where: str, host: str | None = None) -> RunConfig:
        """The config that a YAML text describes; keys that are left out take the defaults of the fields.

        Nothing in it is imported or run: a host "python:…" is refused unless `host` replaces it.

        Args:
            text: see `strict_yaml` for what it may hold.
            where: what the text is called in messages.
            host: the user's own word for the host, which goes before that of the text.

        Raises:
            ConfigError: malformed, an unknown key, or a value that cannot be. Names text, section and field.
        """
        return cls.from_mapping(read_mapping(text, where=where), where=where, host=host)

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], *, host: str | None = None) -> RunConfig:
        """The config in a file; relative paths start from its folder. See `from_yaml`.

        Raises:
            ConfigError: there is no such file, it is not UTF-8, too large, or see `from_yaml`.
        """
        config = cls.from_mapping(read_mapping_file(path), where=os.fspath(path), host=host)
        return config.resolved(Path(path).parent)

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any], *, where: str, host: str | None = None) -> RunConfig:
        """The config that the content of a YAML text describes. See `from_yaml`."""
        values = dict(mapping)
        _checks.check_keys(cls, values, where=where)
        if host is not None:
            values["host"] = host
        elif str(values.get("host")).startswith(CODE):
            raise ConfigError(
                f"{where}: host {_checks.shown(values['host'])} would run a function, and a file may not ask for that; "
                "if you know it, name it on the command line: --host python:MODULE:FUNCTION"
            )
        with _within(where):
            for name, read in (("host_weights", _weights), ("cache", _path), ("head", _head), ("recipe", _recipe)):
                if name in values:
                    values[name] = read(name, values[name])
            for name in _LISTS:
                if name in values:
                    values[name] = _sources(name, values[name])
            return cls(**values)

    def resolved(self, base: Path) -> RunConfig:
        """The same settings with relative paths made absolute, starting from `base`."""
        changes: dict[str, Any] = {
            name: Path(os.path.abspath(base / getattr(self, name)))
            for name in ("host_weights", "cache")
            if isinstance(getattr(self, name), Path)
        }
        for name in _LISTS:
            parts = getattr(self, name)
            changes[name] = tuple(dataclasses.replace(part, source=part.source.resolved(base)) for part in parts)
        return dataclasses.replace(self, **changes)

    def to_yaml(self) -> str:
        """A text from which `from_yaml` gives this config back, its relative paths made absolute."""
        resolved = self.resolved(Path.cwd())
        values: dict[str, Any] = {one.name: getattr(resolved, one.name) for one in dataclasses.fields(self)}
        for name in ("host_weights", "cache"):
            values[name] = None if values[name] is None else str(values[name])
        for name in _LISTS:
            values[name] = [_entry(part) for part in values[name]]
        values["head"] = dataclasses.asdict(self.head)
        values["recipe"] = dataclasses.asdict(self.recipe)
        return _HEADER + write_mapping(values)


def _sources(name: str, value: object) -> tuple[WeightedSource, ...]:
    if not isinstance(value, list):
        raise ConfigError(f"{name} must be a list of sources (- source: list), got {_checks.shown(value)}")
    return tuple(_source(f"{name}[{number}]", item) for number, item in enumerate(value))


def _source(name: str, value: object) -> WeightedSource:
    mapping = _mapping(name, value)
    weight = mapping.pop("weight", None)
    with _within(name):
        return WeightedSource(parse_source(mapping), weight)


def _head(name: str, value: object) -> HeadChoice:
    mapping = _mapping(name, value)
    _checks.check_keys(HeadChoice, mapping, where=name)
    with _within(name):
        return HeadChoice(**mapping)


def _recipe(name: str, value: object) -> Recipe:
    mapping = _mapping(name, value)
    _checks.check_keys(Recipe, mapping, where=name)
    with _within(name):
        return Recipe(**mapping)


def _mapping(name: str, value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(f"{name} must be settings as `name: value`, got {_checks.shown(value)}; or leave it out")
    return dict(value)


def _path(name: str, value: object) -> Path | None:
    return None if value is None else Path(_checks.text(name, value, most=4096))


def _weights(name: str, value: object) -> Path | str | None:
    return RANDOM if value == RANDOM else _path(name, value)


def _entry(part: WeightedSource) -> dict[str, object]:
    weight = {} if part.weight is None else {"weight": part.weight}
    return {**source_mapping(part.source), **weight}


def _check_path(name: str, value: object) -> None:
    if not isinstance(value, Path):
        raise ConfigError(f"{name} must be a path, got {_checks.shown(value)}")
    _checks.text(name, str(value), most=4096)


def _check_sources(name: str, parts: object) -> None:
    if not isinstance(parts, tuple) or not all(isinstance(part, WeightedSource) for part in parts):
        raise ConfigError(f"{name} must be a tuple of WeightedSource, got {_checks.shown(parts)}")
    weighted = [part.weight is not None for part in parts]
    if name != "data" and any(weighted):
        raise ConfigError(f"{name} takes no weight: each of its samples counts once; leave the weights out")
    if any(weighted) and not all(weighted):
        raise ConfigError(f"{name}: some sources have a weight and others none; give all of them one, or none")


@contextmanager
def _within(where: str) -> Iterator[None]:
    """Errors of the block say where the value stands."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
