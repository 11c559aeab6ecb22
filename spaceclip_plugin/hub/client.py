"""How this package speaks to the Hugging Face Hub: its name there, repositories' ids, and what its client raises."""

from __future__ import annotations

import re

from spaceclip_plugin._checks import shown
from spaceclip_plugin.errors import ConfigError

LIBRARY_NAME = "spaceclip_plugin"

_REPOSITORY_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+", re.ASCII)


def is_repository_id(name: object) -> bool:
    """Whether a name can be that of a repository, "org/name"."""
    return isinstance(name, str) and _REPOSITORY_ID.fullmatch(name) is not None


def check_repository_id(name: object) -> None:
    """Raise ConfigError unless `name` is the id of a repository, "org/name"."""
    if not is_repository_id(name):
        raise ConfigError(f"a repository's id is 'org/name', got {shown(name)}")


def client_errors() -> tuple[type[BaseException], ...]:
    """What huggingface_hub raises, errors of its HTTP library included: ValueError is also what a forced download
    without an answer ends in, RuntimeError an upload to the store."""
    from huggingface_hub.utils import HfHubHTTPError

    return (OSError, ValueError, RuntimeError, *HfHubHTTPError.__bases__)


def reason(error: BaseException) -> str:
    """The first lines of a client's error, which may come with a page of advice; of one that is no answer of the Hub
    also what is behind it: "an error happened" alone helps nobody."""
    cause = error.__cause__ if getattr(error, "response", None) is None else None
    return " ".join(_sentence(part) for part in (error, cause) if part is not None)


def _sentence(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    text = text if len(text) <= 250 else f"{text[:250]}…"
    return text if text.endswith((".", "…")) else f"{text}."
