"""The settings of a run: what a config file and the flags of `spaceclip train` say together."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from spaceclip_plugin import __version__
from spaceclip_plugin._digest import code_digest
from spaceclip_plugin._files import read_json_object
from spaceclip_plugin.cli import arguments
from spaceclip_plugin.cli.train_arguments import PUBLISHED
from spaceclip_plugin.data.sources.registry import parse_source
from spaceclip_plugin.errors import CheckpointError, ConfigError, nearest
from spaceclip_plugin.head.architectures import DEFAULT_ARCHITECTURE, architecture
from spaceclip_plugin.training.config.recipe import RECIPES, Recipe
from spaceclip_plugin.training.config.run_config import HeadChoice, RunConfig, WeightedSource
from spaceclip_plugin.training.config.strict_yaml import read_mapping_file
from spaceclip_plugin.training.run.folder import CONFIG_NAME, RECORD_NAME, code_of

# Which field of RunConfig or Recipe a flag sets.
_FIELDS = {
    "host": "host",
    "host_weights": "host_weights",
    "image_size": "image_hw",
    "image_mean": "image_mean",
    "image_std": "image_std",
    "tower": "tower",
    "adapter": "adapter",
    "device": "device",
    "protocol": "protocol",
    "depth_range": "depth_range_m",
    "units_per_metre": "units_per_metre",
    "skip_bad": "skip_bad",
    "workers": "workers",
    "save_every": "save_every",
    "cache": "cache",
    "log_with": "log_with",
    "select_on_test": "select_on_test",
}
_SOURCES = {"data": "data", "val": "validation", "test": "test"}
_RECIPE = {
    "epochs": "epochs",
    "batch_size": "batch_size",
    "accumulation": "accumulation",
    "lr": "learning_rate",
    "weight_decay": "weight_decay",
    "ema_decay": "ema_decay",
    "augmentation": "augmentation",
    "views": "views",
    "features": "cache",
    "loss": "loss",
    "precision": "precision",
    "seed": "seed",
}
_WITH_RESUME = ("host", "device", "workers", "cache", "log_with")
_OF_ANY_COMMAND = ("command", "run", "json")


def new_run(args: argparse.Namespace) -> RunConfig:
    """The settings of a new run: those of --config, or the defaults, and over them what the other flags say.

    Raises:
        argparse.ArgumentError: something that no run goes without is given nowhere.
        ConfigError: a setting that cannot be, or validation data that is named like a test set.
    """
    if args.config is not None:
        config = RunConfig.from_file(args.config, host=args.host)
    else:
        published = args.recipe is not None and args.recipe.startswith("published")
        config = RunConfig(head=HeadChoice(PUBLISHED if published else DEFAULT_ARCHITECTURE))
    changes = _given(args, _FIELDS)
    for name, texts in _given(args, _SOURCES).items():
        changes[name] = tuple(WeightedSource(parse_source(text)) for text in texts)
    changes["head"] = _head(args, config.head)
    changes["recipe"] = _recipe(args, config.recipe)
    config = dataclasses.replace(config, **changes)
    missing = [_flag("val" if name == "validation" else name) for name in config.missing]
    missing += ["--out"] if args.out is None else []
    if missing:
        raise argparse.ArgumentError(
            None, f"{', '.join(missing)} missing; give it here, or host, data and validation in a --config"
        )
    config = _with_flags(config, args)
    config.check_validation()
    return config


def resumed_run(args: argparse.Namespace) -> RunConfig:
    """The settings of the run that --resume names.

    Raises:
        argparse.ArgumentError: a flag that says what the run has settled.
        ConfigError: there is no such run, or --host is not the run's.
    """
    other = (*_WITH_RESUME, *_OF_ANY_COMMAND, "resume")
    given = [_flag(name) for name, value in vars(args).items() if value is not None and name not in other]
    if given:
        allowed = ", ".join(map(_flag, _WITH_RESUME))
        raise argparse.ArgumentError(
            None, f"{', '.join(given)} cannot be given with --resume: a run keeps its settings, all but {allowed}"
        )
    path = args.resume / CONFIG_NAME
    if not path.is_file():
        raise ConfigError(f"there is no run to continue in {str(args.resume)!r}: it holds no {CONFIG_NAME}")
    values = read_mapping_file(path)
    if args.host is not None and args.host != values.get("host"):
        raise ConfigError(
            f"the run in {str(args.resume)!r} is on host {values.get('host')!r}, not on {args.host!r}; leave --host "
            "out, or start another run"
        )
    with _written_by_the_run(args.resume):
        # As if the user had named the host: whether a file may, which is no question of versions, is asked below.
        RunConfig.from_mapping(values, where=str(path), host=str(values.get("host")))
    config = RunConfig.from_mapping(values, where=str(path), host=args.host).resolved(args.resume)
    if config.missing:
        raise ConfigError(f"{path}: {', '.join(config.missing)} missing, which no run goes without; was it edited?")
    return dataclasses.replace(config, **_given(args, {flag: _FIELDS[flag] for flag in _WITH_RESUME}))


@contextlib.contextmanager
def _written_by_the_run(folder: Path) -> Iterator[None]:
    """Settings that cannot be are explained: a run writes only what its own version knows."""
    try:
        yield
    except ConfigError as error:
        try:
            begun = code_of(read_json_object(folder / RECORD_NAME))
        except CheckpointError:  # without a record, nothing is known
            begun = code_of({})
        now = code_of({"spaceclip_plugin": __version__, "code": code_digest()})
        if begun == now:
            raise ConfigError(
                f"{error}; the run wrote what this version knows, so undo what was edited there"
            ) from error
        raise ConfigError(
            f"{error}; the run was begun with {begun}, this is {now}: resume it with the version it was begun with, or "
            "undo what was edited there"
        ) from error


def _given(args: argparse.Namespace, names: Mapping[str, str]) -> dict[str, Any]:
    """What the flags in `names` say, by the field they set; nothing of those that are not given."""
    return {name: value for flag, name in names.items() if (value := getattr(args, flag)) is not None}


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _recipe(args: argparse.Namespace, configured: Recipe) -> Recipe:
    base = configured if args.recipe is None else RECIPES[args.recipe]()
    given = _given(args, _RECIPE)
    if args.target_side is not None:
        given["target_side"] = args.target_side or None
    return dataclasses.replace(base, **given)


def _head(args: argparse.Namespace, configured: HeadChoice) -> HeadChoice:
    """The head of the config with --set's options in it; another architecture than the config's starts without any."""
    name = args.arch or configured.architecture
    kept = configured.options if name == configured.architecture else {}
    return HeadChoice(name, {**kept, **_options(name, args.set or [])})


def _options(name: str, settings: Sequence[str]) -> dict[str, Any]:
    known = [field.name for field in dataclasses.fields(architecture(name).options)]
    options: dict[str, Any] = {}
    for setting in settings:
        key, _, value = setting.partition("=")
        if key not in known:
            hint = nearest(key, known)
            raise ConfigError(f"--set {setting}: {name} has no option {key!r}{hint}; it has {', '.join(known)}")
        try:
            options[key] = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"--set {setting[:80]}: the value is not JSON, as 3, true or [1,2]: {error}") from error
    return options


def _with_flags(config: RunConfig, args: argparse.Namespace) -> RunConfig:
    """The config with what --root, --ray-distance and --units-per-metre say of all its data."""
    parts = {name: getattr(config, name) for name in _SOURCES.values()}
    specs = arguments.rooted([part.source for several in parts.values() for part in several], args.root)
    ray_distance = bool(args.ray_distance)
    told = iter(arguments.measured(specs, ray_distance=ray_distance, units_per_metre=args.units_per_metre))
    changes: dict[str, Any] = {
        name: tuple(dataclasses.replace(part, source=next(told)) for part in several) for name, several in parts.items()
    }
    return dataclasses.replace(config, **changes)
