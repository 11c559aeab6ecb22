"""What huggingface_hub raises where the Hub refuses or cannot be reached, and what of it helps a reader."""

from __future__ import annotations


def client_errors() -> tuple[type[BaseException], ...]:
    """What huggingface_hub raises; where a connection breaks also the errors of the HTTP library that it uses.

    ValueError is also what a forced download without an answer ends in, RuntimeError an upload to the store.
    """
    from huggingface_hub.utils import HfHubHTTPError

    return (OSError, ValueError, RuntimeError, *HfHubHTTPError.__bases__)


def reason(error: BaseException) -> str:
    """The first lines of a client's error, which may come with a page of advice.

    Of one that is no answer of the Hub also what is behind it: "an error happened" alone helps nobody.
    """
    cause = error.__cause__ if getattr(error, "response", None) is None else None
    return " ".join(_sentence(part) for part in (error, cause) if part is not None)


def _sentence(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    text = text if len(text) <= 250 else f"{text[:250]}…"
    return text if text.endswith((".", "…")) else f"{text}."
