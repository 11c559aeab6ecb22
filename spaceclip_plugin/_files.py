"""Files and folders that are whole or absent: atomic writes, and a strict reader of JSON objects."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from spaceclip_plugin.errors import CheckpointError, ConfigError

_TEMPORARY = re.compile(r"\..*\.[0-9a-f]{12}\.tmp(\..*)?", re.DOTALL)
MAX_JSON_BYTES = 1 << 20  # a config has a few kilobytes; what is far larger is not one, and is not parsed
MAX_JSON_DEPTH = 64  # of lists and objects within each other; ours have about five


@contextmanager
def atomic_path(path: str | os.PathLike[str], *, replace: bool = True) -> Iterator[Path]:
    """A temporary path beside `path`, of its suffix, for one file that takes its place when the block ends well.
    A symbolic link is replaced itself. Commands, which choose names themselves, do not `replace` what is there."""
    target = Path(path)
    if target.is_dir():
        raise ConfigError(f"cannot write {str(target)!r}: it is a folder; give the path of a file")
    temporary = _temporary_beside(target, target.stem, target.suffix, may_be_there=replace)
    try:
        yield temporary
        with temporary.open("rb+") as handle:
            os.fsync(handle.fileno())
        if replace:
            temporary.replace(target)
        else:
            _link_new(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A new folder under a hidden name beside `path`, where nothing may be; renamed to it when the block ends well.
    A killed process leaves the hidden folder behind; see `is_temporary`."""
    target = Path(path)
    temporary = _temporary_beside(target, target.name, "", may_be_there=False)
    temporary.mkdir()
    try:
        yield temporary
        for entry in (*temporary.rglob("*"), temporary):
            sync_to_disk(entry)
        temporary.rename(target)
        sync_to_disk(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _temporary_beside(target: Path, stem: str, suffix: str, *, may_be_there: bool) -> Path:
    """A hidden name in the target's folder, which is made; ConfigError where something is at the target already."""
    if not may_be_there and os.path.lexists(target):
        raise _there_already(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"cannot create the folder of {str(target)!r} ({error.strerror}); choose a folder you can write to"
        ) from error
    # Not tempfile: its files are private to the user (mode 0600), and the rename would keep them so.
    return target.with_name(f".{stem[:40]}.{secrets.token_hex(6)}.tmp{suffix}")


def is_temporary(path: Path) -> bool:
    """Whether a file or folder is called as one that `atomic_path` or `atomic_folder` had not finished."""
    return _TEMPORARY.fullmatch(path.name) is not None


def sync_to_disk(path: Path) -> None:
    """Wait until a file's content, or the names in a folder, are on the disk; for a folder, where the OS can do that.
    The `filename` of an OSError is `path`."""
    is_folder = path.is_dir()
    if is_folder and os.name != "posix":
        return
    try:
        handle = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        # Some network file systems have no fsync for folders; their rename is all there is.
        if not (is_folder and error.errno in (errno.EINVAL, errno.ENOTSUP)):
            raise OSError(error.errno, error.strerror, str(path)) from error


def read_json_object(path: str | os.PathLike[str], *, max_bytes: int = MAX_JSON_BYTES) -> dict[str, object]:
    """The JSON object in a file that may come from anywhere; CheckpointError for anything else.
    Stricter than `json.load`: UTF-8 only, at most `max_bytes`, no key twice, every number finite."""
    source = Path(path)
    if not source.is_file():
        raise CheckpointError(f"{str(source)!r} is not a file; expected a JSON file, check the path")
    try:
        with source.open("rb") as handle:
            raw = handle.read(max_bytes + 1)
    except OSError as error:
        raise CheckpointError(f"cannot read {str(source)!r} ({error.strerror}); check its permissions") from error
    if len(raw) > max_bytes:
        raise CheckpointError(f"{str(source)!r} is larger than {max_bytes} bytes, expected a smaller JSON file")
    return parse_json_object(raw, source=repr(str(source)))


def parse_json_object(raw: bytes | str, *, source: str) -> dict[str, Any]:
    """The JSON object in bytes or text that may come from anywhere, as strictly as `read_json_object` reads a file."""
    try:
        # Text that comes out of other JSON may hold lone surrogates, which are no text: they have no UTF-8.
        content = json.loads(
            (raw if isinstance(raw, bytes) else raw.encode()).decode(),
            object_pairs_hook=_object_without_duplicates,
            parse_float=_finite_float,
            parse_constant=_finite_float,
        )
        _check_nesting(content)
    except RecursionError as error:
        raise CheckpointError(f"{source} nests too deeply to be one of our JSON files: {error}") from error
    except ValueError as error:  # malformed JSON, bytes that are not UTF-8, and what the hooks refuse
        raise CheckpointError(f"{source} is not valid JSON: {error}; write it anew or download it again") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{source} holds a JSON {type(content).__name__}, expected an object {{...}}")
    return content


def write_json(path: str | os.PathLike[str], obj: Mapping[str, object]) -> None:
    """Write an object as indented UTF-8 JSON, atomically; ConfigError for what has no JSON (NaN, a tensor)."""
    try:
        text = json.dumps(dict(obj), indent=2, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"cannot write {str(path)!r} as JSON: {error}; give finite numbers, strings, lists and objects"
        ) from error
    with atomic_path(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def _link_new(temporary: Path, target: Path) -> None:
    """Give the file its name unless something has it: a rename would replace, a link refuses, in one step."""
    try:
        try:
            os.link(temporary, target)
        except FileExistsError:
            raise
        except OSError:  # a file system without hard links: the name is taken by an empty file first
            target.open("xb").close()
            temporary.replace(target)
    except FileExistsError as error:
        raise _there_already(target) from error


def _there_already(target: Path) -> ConfigError:
    return ConfigError(f"cannot write {str(target)!r}: it is there already; move it away or choose another name")


def _object_without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Python would keep the last of two equal keys, other readers the first: a file may not mean two things."""
    content: dict[str, object] = {}
    for key, value in pairs:
        if key in content:
            raise ValueError(f"the key {key[:80]!r} appears twice")
        content[key] = value
    return content


def _check_nesting(content: object) -> None:
    """What Python can only just parse would exhaust its recursion when it is compared or spelled out."""
    level: list[Any] = [content]
    for _ in range(MAX_JSON_DEPTH + 1):
        level = [value for value in level if isinstance(value, (list, dict))]
        if not level:
            return
        level = [inner for outer in level for inner in (outer.values() if isinstance(outer, dict) else outer)]
    raise RecursionError(f"more than {MAX_JSON_DEPTH} lists and objects within each other")


def _finite_float(text: str) -> float:
    """Also catches 1e999, which is valid JSON and infinite in Python."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is not a finite number")
    return value
