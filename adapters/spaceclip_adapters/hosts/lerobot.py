"""Policies of LeRobot by Hub id or local folder: built by LeRobot's own classes, with the checkpoint's own weights."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from spaceclip_adapters.hosts.absent_parts import check_unexpected, drop_absent
from spaceclip_adapters.hosts.config_alone import Replacements, of_configs_alone
from spaceclip_adapters.hosts.hub_files import NotInRepositoryError, fetch
from spaceclip_adapters.hosts.lerobot_preprocessor import declare_preprocessor
from spaceclip_adapters.hosts.lerobot_types import check_tower, no_such_type
from spaceclip_adapters.hosts.weights import (
    Weights,
    differences,
    few,
    first_line,
    fixed_randomness,
    frozen,
    load_fitting,
    not_a_state_dict,
    read_safetensors,
    warn_of_random_weights,
)
from spaceclip_plugin.errors import HostError

logger = logging.getLogger(__name__)

_CONFIG, _WEIGHTS = "config.json", "model.safetensors"
_REMEDIES = (
    "Download it beforehand (`hf download {name}`) or give the folder that `save_pretrained` wrote; its config alone "
    "does with `--host-weights FILE`, or with `--host-weights random` for a trial."
)
_ADVICE = (
    "Give a safetensors state dict with `--host-weights FILE`, or ask for random weights with `--host-weights random`, "
    "for a trial."
)
# What these read beside their own weights, to overwrite it: the model they were made of.
_OWN_READERS: Mapping[str, Replacements] = {
    "molmoact2": {"_strict_load_safetensors_weights": lambda model, location: None},
    "wall_x": {"cached_file": lambda name, file, **_: file, "load_file": lambda file: {}},
}


def load_lerobot(name: str, weights: Path | None = None, *, random: bool = False) -> nn.Module:
    """The LeRobot policy of a Hub id or local folder, whole, frozen and in eval mode, on the CPU.

    It is of the class that `type` in its config.json stands for in the installed LeRobot, with the weights of its
    model.safetensors. The models inside it are built of their configs, which the Hub or its cache must have unless the
    policy's own config holds them; their weights are not downloaded, tokenizers with code of their own are left out.

    Args:
        name: a Hub id, or a folder as `save_pretrained` writes it.
        weights: a safetensors state dict instead of its own weights.
        random: random weights from a fixed seed instead; configs alone are read.

    Raises:
        HostError: there is no such policy, this LeRobot does not have or cannot build it, it sees without a vision
            transformer, or the weights are missing, damaged or not its own.
    """
    config_file, commit = _config_file(name)
    values = _values(config_file)
    kind = _type(values, config_file)
    check_tower(kind, name)
    classes = _classes(name, kind)
    file = weights
    if weights is None and not random:
        file = _weights_file(name, commit, adapter=values.get("use_peft") is True)
    given = None if file is None else read_safetensors(file, downloaded=weights is None and commit is not None)
    policy = _built(name, values, classes, _OWN_READERS.get(kind, {}))
    if given is None:
        warn_of_random_weights(name)
    else:
        _load(policy, name, given, source=str(file))
        policy._commit_hash = commit if weights is None else None  # type: ignore[assignment]
    declare_preprocessor(policy, name, config_file.parent, commit=commit)
    return frozen(policy)


def _config_file(name: str) -> tuple[Path, str | None]:
    """The policy's config.json, and the commit it is of on the Hub."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / _CONFIG).is_file():
            raise HostError(f"{folder} has no {_CONFIG}; give the folder that `save_pretrained` wrote, or a Hub id.")
        return folder / _CONFIG, None
    if folder.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise HostError(f"there is no folder {folder}; give the one that `save_pretrained` wrote, or a Hub id.")
    found = fetch(name, [_CONFIG], remedies=_REMEDIES.format(name=name))
    return found.path, found.commit


def _values(file: Path) -> dict[str, Any]:
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise HostError(f"{file} is not a whole JSON file ({first_line(error)}). Download it again.") from error
    if not isinstance(values, dict):
        raise HostError(f"{file} holds a {type(values).__name__}, expected the settings of a policy.")
    return values


def _type(values: Mapping[str, Any], file: Path) -> str:
    kind = values.get("type")
    if isinstance(kind, str) and kind:
        return kind
    advice = "transformers may know it: name it `hf:`" if "model_type" in values else "write its policy's type there"
    raise HostError(f"{file} has no `type`, by which LeRobot knows its policies; {advice}.")


def _weights_file(name: str, commit: str | None, *, adapter: bool) -> Path:
    """The policy's own weights."""
    if adapter:
        raise HostError(
            f"{name} holds an adapter of PEFT, not the weights of a policy. Merge it into the policy it was trained on "
            "(`merge_and_unload()`, then `save_pretrained`) and give that folder."
        )
    folder = Path(name).expanduser()
    if not folder.is_dir():
        try:
            return fetch(name, [_WEIGHTS], revision=commit, remedies=_REMEDIES.format(name=name)).path
        except NotInRepositoryError as error:
            raise HostError(f"the repository {name!r} has a {_CONFIG} but no {_WEIGHTS}. {_ADVICE}") from error
    if not (folder / _WEIGHTS).is_file():
        half = any(folder.rglob("*.incomplete"))
        told = " (its download was interrupted: repeat it)" if half else ""
        raise HostError(f"{folder} has a {_CONFIG} but no {_WEIGHTS}{told}. {_ADVICE}")
    return folder / _WEIGHTS


def _built(name: str, values: Mapping[str, Any], classes: _Classes, own_readers: Replacements) -> nn.Module:
    """The policy that a config describes, its weights random."""
    settings = {key: value for key, value in values.items() if key != "type"}
    settings["device"] = "cpu"  # as every named host; where it goes is said by whoever asked for it
    if "compile_model" in settings:
        settings["compile_model"] = False  # compiles what a head does not run, and changes torch's settings
    try:
        config = _decoded(name, classes, settings)
        # LeRobot tells by `print` what it does.
        with (
            redirect_stdout(sys.stderr),
            of_configs_alone(sys.modules[classes.policy.__module__], own_readers),
            fixed_randomness(),
        ):
            policy: nn.Module = classes.policy(config)
    except ImportError as error:
        raise _needs_more(name, error) from error
    except OSError as error:
        named = few({value for value in settings.values() if isinstance(value, str) and "/" in value})
        raise HostError(
            f"{name} needs files of the models it was made of, which could not be had: {first_line(error)}. Its config "
            f"names {named}. Go online once, or download their configs and tokenizers into the Hub's cache; their "
            "weights are not needed."
        ) from error
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError, AssertionError) as error:
        raise _cannot_build(name, classes, error) from error
    return policy


@dataclass(frozen=True)
class _Classes:
    """A policy's classes in the installed LeRobot, and its version."""

    config: type
    policy: type[nn.Module]
    version: str


def _classes(name: str, kind: str) -> _Classes:
    try:
        import lerobot.policies  # registers the configs
        from lerobot.configs.policies import PreTrainedConfig
        from lerobot.policies.factory import get_policy_class
    except ImportError as error:
        raise HostError(
            f"{name} is a policy of LeRobot, which is not installed ({first_line(error)}): pip install "
            "'spaceclip-plugin[lerobot]'."
        ) from error
    version = str(lerobot.__version__)
    known = PreTrainedConfig.get_known_choices()
    if kind not in known:
        raise no_such_type(kind, name, installed=version, known=known)
    try:
        return _Classes(known[kind], get_policy_class(kind), version)
    except ImportError as error:
        raise _needs_more(name, error) from error
    except (ValueError, NotImplementedError) as error:  # a config that is registered without a policy
        raise HostError(f"LeRobot {version} has no policy class for {kind!r}: {first_line(error)}.") from error


def _cannot_build(name: str, classes: _Classes, error: BaseException) -> HostError:
    first = error  # what was wrong at first: the reader of configs says only that something was
    while first.__cause__ is not None:
        first = first.__cause__
    reason = str(first).strip().partition("\n")[0].rstrip(".")
    return HostError(
        f"LeRobot {classes.version} cannot build the {classes.policy.__name__} of {name}: {type(first).__name__}: "
        f"{reason}. A checkpoint of another LeRobot needs that one; or build the policy yourself and pass "
        "`python:module:function`."
    )


def _needs_more(name: str, error: ImportError) -> HostError:
    return HostError(f"the policy of {name} needs more than is installed: {first_line(error)}.")


def _decoded(name: str, classes: _Classes, settings: Mapping[str, Any]) -> object:
    """A policy's config from JSON, by the library that LeRobot reads it with, but without leaving a temporary file."""
    from lerobot.configs.policies import draccus

    try:
        decoded: object = draccus.decode(classes.config, dict(settings))
    except draccus.ParsingError as error:
        raise _cannot_build(name, classes, error) from error
    return decoded


def _load(policy: nn.Module, name: str, given: Weights, *, source: str) -> None:
    """Load weights: none made up where depth needs it, none of a tower left over."""
    if any(differences(policy, given)):
        given = _renamed(policy, given)
    missing, unexpected = differences(policy, given)
    if len(missing) == len(policy.state_dict()):
        raise not_a_state_dict(source, name, missing, unexpected)
    load_fitting(policy, name, given, source=source)
    check_unexpected(policy, unexpected, source=source)
    if unexpected:
        logger.warning("%s holds weights that a %s does not have: %s", source, type(policy).__name__, few(unexpected))
    drop_absent(policy, missing, source=source, advice="Give the weights of this very policy.")


def _renamed(policy: nn.Module, given: Weights) -> Weights:
    """Weights of openpi and of older LeRobots under the names that the policy's own class converts them to."""
    convert: Any = getattr(policy, "_fix_pytorch_state_dict_keys", None)  # pi0 and its family
    if convert is not None:
        fixed = convert(given, policy.config)
        given = {key if key.startswith("model.") else f"model.{key}": value for key, value in fixed.items()}
    module: Any = sys.modules[type(policy).__module__]
    if hasattr(module, "_is_vendored_florence_state_dict") and module._is_vendored_florence_state_dict(given):
        given = module._remap_vendored_florence_state_dict(given)  # X-VLA
    return given
