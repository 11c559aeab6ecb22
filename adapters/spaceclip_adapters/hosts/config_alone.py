"""Models built of their configs alone, while what they are part of would download weights for them, or run code.

LeRobot's policies call `from_pretrained` for the models inside them, and their own weights overwrite those. Here that
costs no download, reads no pickle, and leaves what a checkpoint lacks random, not somebody else's.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import Any

from torch import nn

from spaceclip_plugin.errors import HostError

logger = logging.getLogger(__name__)

_WHERE = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")
_HOW = ("attn_implementation", "dtype", "torch_dtype")

Replacements = Mapping[str, Callable[..., object]]


@contextmanager
def of_configs_alone(module: ModuleType, own_readers: Replacements) -> Iterator[None]:
    """Have transformers build models of their configs alone, and run no code that came with a tokenizer or a model.

    Tokenizers and processors that would run code of their own are left out (None): a tower reads no text. It holds for
    the whole process, until the block ends.

    Args:
        module: the one of a policy's class.
        own_readers: what stands in for functions of that module which read weights by themselves; names that it does
            not have are passed over.
    """
    import transformers
    from transformers import dynamic_module_utils

    with ExitStack() as undo:
        undo.enter_context(_replaced(transformers.PreTrainedModel, "from_pretrained", classmethod(_of_config)))
        undo.enter_context(_replaced(dynamic_module_utils, "get_class_in_module", _refuse_code))
        for kind in (transformers.AutoTokenizer, transformers.AutoProcessor):
            undo.enter_context(_replaced(kind, "from_pretrained", _without_code(kind.from_pretrained)))
        for name, stand_in in own_readers.items():
            if hasattr(module, name):
                undo.enter_context(_replaced(module, name, stand_in))
        yield


@contextmanager
def _replaced(owner: object, name: str, value: object) -> Iterator[None]:
    before = vars(owner)[name]
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def _of_config(cls: Any, /, name: Any, *args: object, config: Any = None, **options: Any) -> nn.Module:
    """What `PreTrainedModel.from_pretrained` gives, with random weights and of no file but the config."""
    where = {key: options.pop(key) for key in _WHERE if key in options}
    how = {key: value for key in _HOW if (value := options.pop(key, None)) not in (None, "auto")}
    if config is None:
        config, options = cls.config_class.from_pretrained(name, return_unused_kwargs=True, **where, **options)
    taken = inspect.signature(cls.__init__).parameters
    built: nn.Module = cls._from_config(config, **how, **{key: options[key] for key in options.keys() & taken.keys()})
    return built.eval()


def _without_code(load: Callable[..., object]) -> Callable[..., object]:
    def loaded(name: object, *args: object, **options: Any) -> object:
        if options.get("trust_remote_code"):
            logger.info("%s would run code of its own, and no tower reads it: left out", name)
            return None
        return load(name, *args, **options)

    return loaded


def _refuse_code(name: str, *args: object, **options: object) -> None:
    raise HostError(
        f"a part of this policy is a {name} whose code comes with its weights, which is not run. Build the policy "
        "yourself and pass `python:module:function`."
    )
