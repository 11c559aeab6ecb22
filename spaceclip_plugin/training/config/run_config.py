"""Everything `spaceclip train` needs to know, as one checked object and as the file `config.yaml`."""

import dataclasses
import os.path
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from typing_extensions import Self

from spaceclip_plugin import _checks
from spaceclip_plugin.data import SourceSpec, parse_source
from spaceclip_plugin.data.sources.registry import source_mapping
from spaceclip_plugin.depth.camera import FocalLength, checked_focal_length
from spaceclip_plugin.errors import ConfigError
from spaceclip_plugin.head.architectures import ARCHITECTURES, DEFAULT_ARCHITECTURE, architecture
from spaceclip_plugin.head.decoder import STANDARD
from spaceclip_plugin.training.config.recipe import Recipe
from spaceclip_plugin.training.config.settings import (
    Config,
    Setting,
    as_path,
    choice,
    floats,
    mapping,
    text,
    truth,
    whole,
    within,
)
from spaceclip_plugin.training.config.shared import HostConfig, ReadingConfig
from spaceclip_plugin.training.config.strict_yaml import read_mapping, write_mapping
from spaceclip_plugin.training.processes import TRACKERS
from spaceclip_plugin.training.selection import named_like_a_test_set

_FOLDER_OR_ID = "hf"  # teachers of this scheme are folders or ids on the Hub
CODE = "python:"  # a host that starts with this is a function of the user's, which is called to get it
SOURCES_OF_A_RUN = ("data", "validation", "test")
_ANY_BLOCKS = 12  # of a tower that is not known yet
_NEEDED = ("host", "data", "validation")
_HEADER = """\
# Settings of a run of `spaceclip train`. The same run again: spaceclip train --config THIS_FILE --out NEW_FOLDER
# A run that was stopped goes on with: spaceclip train --resume FOLDER
"""


@dataclass(frozen=True)
class WeightedSource:
    """Data, and how much of what training sees comes from it."""

    source: SourceSpec
    weight: float | None = None  # its share, in any unit that the weights beside it have; None: by size

    def __post_init__(self) -> None:
        source_mapping(self.source)  # refuses what is no kind of data
        if self.weight is not None:
            _checks.real("weight", self.weight, 1e-9, 1e9)

    @classmethod
    def read(cls, where: str, value: object) -> Self:
        """From an entry of a file: a mapping as `parse_source` takes it, with `weight` in it or without."""
        if isinstance(value, cls):
            return value
        values = mapping(where, value)
        weight = values.pop("weight", None)
        with within(where):
            return cls(parse_source(values), weight)

    def to_mapping(self) -> dict[str, object]:
        """What `read` reads back."""
        weight = {} if self.weight is None else {"weight": self.weight}
        return {**source_mapping(self.source), **weight}


def _sources(name: str, value: object) -> tuple[WeightedSource, ...]:
    if not isinstance(value, (list, tuple)):
        raise ConfigError(f"{name} must be a list of sources (- source: list), got {_checks.shown(value)}")
    parts = tuple(WeightedSource.read(f"{name}[{number}]", item) for number, item in enumerate(value))
    weighted = [part.weight is not None for part in parts]
    if name != "data" and any(weighted):
        raise ConfigError(f"{name} takes no weight: each of its samples counts once; leave the weights out")
    if any(weighted) and not all(weighted):
        raise ConfigError(f"{name}: some sources have a weight and others none; give all of them one, or none")
    return parts


@dataclass(frozen=True)
class HeadChoice(Config):
    """Which head is trained; its `options` are those that shall not be what preset and tower suggest."""

    architecture: Annotated[
        str,
        choice(
            sorted(ARCHITECTURES),
            f"default: {DEFAULT_ARCHITECTURE}; space-clip with a published --recipe",
            flag="--arch",
        ),
    ] = DEFAULT_ARCHITECTURE
    options: Annotated[Mapping[str, Any], Setting(mapping, "settings of the architecture", None)] = field(
        default_factory=dict
    )
    preset: Annotated[
        str,
        choice(
            list(dict.fromkeys(name for one in ARCHITECTURES.values() for name in one.presets)),
            "what the head is for: fine for outlines, with an early tap and the image",
        ),
    ] = STANDARD

    def __post_init__(self) -> None:
        super().__post_init__()
        chosen = architecture(self.architecture)
        _checks.choice(f"preset of {self.architecture!r}", self.preset, chosen.presets)
        kind = chosen.options
        _checks.check_keys(kind, self.options, where=f"options of {self.architecture!r}")
        dataclasses.replace(kind.for_blocks(_ANY_BLOCKS, self.preset), **self.options)  # checked beside the preset's
        plain = {key: list(value) if isinstance(value, tuple) else value for key, value in self.options.items()}
        object.__setattr__(self, "options", plain)


@dataclass(frozen=True)
class RunConfig(ReadingConfig, HostConfig):
    """Settings of one training run, each of them checked; the folder of the run is not among them.

    Host, data and validation may be left open, for a command line to fill in; see `missing`. Several sources of `data`
    are mixed by their weights, all given or none; `validation` and `test` have none. What follows `recipe` changes no
    result.

    Raises:
        ConfigError: a value that cannot be, named by its field.

    Example:
        >>> config = RunConfig.from_mapping({"host": "timm:x", "recipe": {"epochs": 3}}, where="mine.yaml")
        >>> config.recipe.epochs, config.missing
        (3, ('data', 'validation'))
    """

    data: Annotated[tuple[WeightedSource, ...], Setting(_sources, "what the head learns from", None)] = ()
    validation: Annotated[
        tuple[WeightedSource, ...],
        Setting(_sources, "what the best epoch is chosen on (default, of recordings: a tenth of their episodes)", None),
    ] = ()
    test: Annotated[
        tuple[WeightedSource, ...], Setting(_sources, "what the best head is scored on, once, at the end", None)
    ] = ()
    select_on_test: Annotated[
        bool, truth("choose the best epoch on data that is named like a test set, and say so in the record")
    ] = False
    focal_length: Annotated[
        FocalLength | None,
        Setting(
            lambda name, value: checked_focal_length(value, name=name),
            "of data that has no intrinsics, over the width and height of its photos: fx / width, fy / height",
            parse=floats(2),
            metavar="FX,FY",
        ),
    ] = None
    teacher: Annotated[
        str | None,
        text("hf:ID-or-folder, a metric depth estimator that gives the training data its depth (default: its own)"),
    ] = None
    head: Annotated[HeadChoice, Setting(HeadChoice.read, "which head is trained", None)] = field(
        default_factory=HeadChoice
    )
    recipe: Annotated[Recipe, Setting(Recipe.read, "how it is trained", None)] = field(default_factory=Recipe)
    workers: Annotated[int, whole(0, 1_024, "processes that read data ahead (default: 0)")] = 0
    save_every: Annotated[
        int | None,
        whole(1, 10**9, "steps between checkpoints (default: only at every epoch's end)", metavar="STEPS"),
    ] = None
    cache: Annotated[
        Path | None,
        Setting(as_path, "folder of features that other runs can use (default: the run's own)", metavar="DIR"),
    ] = None
    log_with: Annotated[str | None, choice(TRACKERS, "also log to this (default: only to the run's folder)")] = None

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
        for part in () if self.select_on_test else self.validation:
            if named_like_a_test_set(part.source.resolved(Path.cwd())):
                raise ConfigError(
                    f"validation data {part.source.title!r} is named like a test set, and the best epoch is chosen on "
                    "it: hold images of the training set out for validation and give this as test data (--test), or "
                    "set select_on_test (--select-on-test), which the record of the run will say"
                )

    @classmethod
    def from_file(cls, file: str | os.PathLike[str], *, host: str | None = None) -> Self:
        """The config in a file, its relative paths starting from the file's folder; what it leaves out is the default.

        Nothing in it is imported or run: a host "python:…" is refused unless `host`, the user's own word, replaces it.

        Raises:
            ConfigError: there is no such file, it is no YAML as `strict_yaml` reads it, or it holds an unknown key or a
                value that cannot be. Names file, section and field.
        """
        return cls.from_mapping(read_mapping(file), where=os.fspath(file), host=host).resolved(Path(file).parent)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], *, where: str, host: str | None = None) -> Self:
        """The config that the content of a file describes; see `from_file`."""
        if host is None and str(values.get("host")).startswith(CODE):
            raise ConfigError(
                f"{where}: host {_checks.shown(values['host'])} would run a function, and a file may not ask for that; "
                "if you know it, name it on the command line: --host python:MODULE:FUNCTION"
            )
        return cls.read(where, values if host is None else {**values, "host": host})

    def resolved(self, base: Path) -> Self:
        """The same settings with relative paths made absolute, starting from `base`."""
        changes: dict[str, Any] = {
            name: tuple(dataclasses.replace(part, source=part.source.resolved(base)) for part in getattr(self, name))
            for name in SOURCES_OF_A_RUN
        }
        for name in ("host_weights", "cache"):
            if isinstance(getattr(self, name), Path):
                changes[name] = Path(os.path.abspath(base / getattr(self, name)))
        if self.teacher is not None:
            changes["teacher"] = _resolved_teacher(self.teacher, base)
        return dataclasses.replace(self, **changes)

    def to_yaml(self) -> str:
        """A text from which `from_file` gives this config back, its relative paths made absolute."""
        return _HEADER + write_mapping(self.resolved(Path.cwd()).to_mapping())


def _resolved_teacher(name: str, base: Path) -> str:
    """A teacher's name with the folder in it, if that is relative, made absolute: hf:./teacher, or hf:teacher/small."""
    scheme, _, model = name.partition(":")
    relative = model.startswith(("./", "../")) or (scheme == _FOLDER_OR_ID and (base / model).is_dir())
    return f"{scheme}:{os.path.abspath(base / model)}" if relative else name
