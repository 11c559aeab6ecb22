"""Folders with something hostile in them: pickles, archives, links, devices, pipes, giants, halves.

Where a good head lies beside the hostile file, that head is loaded and the file is never opened.
"""

from __future__ import annotations

import gzip
import io
import os
import pickle
import stat
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

CONFIG, WEIGHTS = "config.json", "model.safetensors"
GIANT_BYTES = 8 << 30
_PROGRAM = "open({!r}, 'w').close()"
# What other loaders read, import or run when they find it.
_EXECUTABLE = (
    "modeling_evil.py", "configuration_evil.py", "__init__.py", "config.py", "head.py", "conftest.py", "setup.py",
    "sitecustomize.py", "torch.py", "json.py", "safetensors.py", "spaceclip_plugin.py", "custom_generate.py",
)  # fmt: skip
_PICKLED = (
    "pytorch_model.bin", "model.pt", "model.pth", "model.ckpt", "model.pkl", "config.pkl", "optimizer.pt",
    "training_args.bin", "flax_model.msgpack", "joblib.pkl", "model.npy", "rng_state.pth", "data.pkl",
)  # fmt: skip
_WORDS = {
    "model.safetensors.index.json": b'{"weight_map": {"decoder.out.weight": "../../../etc/passwd"}}',
    "adapter_config.json": b'{"auto_map": {"AutoModel": "evil.Evil"}, "trust_remote_code": true}',
    "generation_config.json": b"[" * 100_000,
    "config.yaml": b"!!python/object/apply:os.system ['touch pwned']",
    ".env": b"PYTHONSTARTUP=evil.py",
    ".gitattributes": b"* filter=evil",
    "tokenizer_config.json": b'{"auto_map": {"AutoTokenizer": ["evil.Evil", null]}}',
}


class _Touch:
    """A pickle of this runs a program when it is read."""

    def __init__(self, marker: Path) -> None:
        self._program = _PROGRAM.format(str(marker))

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return exec, (self._program,)


@dataclass(frozen=True)
class Repository:
    """A folder as an attacker would have it.

    Attributes:
        name: what was done, for messages.
        change: does it to a folder that holds a good head.
        is_good: whether the head in it is whole and is to be loaded.
    """

    name: str
    change: Callable[[Path], object]
    is_good: bool = False


def hostile_repositories(marker: Path) -> Iterator[Repository]:
    """All of this file's sorts; whatever runs a program of theirs makes a file `marker`."""
    yield from _programs_beside(marker)
    yield from _pickles_in_place(marker)
    yield from _absent()
    yield from _in_place()
    yield from _linked()


def pickles(marker: Path) -> dict[str, bytes]:
    """Every sort of pickle; reading one runs a program."""
    found = {f"pickle {protocol}": pickle.dumps(_Touch(marker), protocol) for protocol in range(6)}
    for name, zipped in (("torch", True), ("older torch", False)):
        stream = io.BytesIO()
        torch.save({"model": _Touch(marker)}, stream, _use_new_zipfile_serialization=zipped)
        found[name] = stream.getvalue()
    found["gzipped pickle"] = gzip.compress(found["pickle 4"], mtime=0)
    found["array of objects"] = b"\x93NUMPY\1\0v\0{'descr':'|O','fortran_order':False,'shape':()}\n" + found["pickle 4"]
    return found


def _programs_beside(marker: Path) -> Iterator[Repository]:
    program, pickled = _PROGRAM.format(str(marker)).encode(), pickles(marker)
    files = dict.fromkeys(_EXECUTABLE, program) | _WORDS
    files |= {f"{name} ({sort})": raw for name in _PICKLED for sort, raw in pickled.items()}
    for name, raw in files.items():
        yield Repository(f"{name} beside the head", _written(name.partition(" (")[0], raw), is_good=True)
    yield Repository("a pipe beside the head", lambda folder: os.mkfifo(folder / "pytorch_model.bin"), is_good=True)


def _pickles_in_place(marker: Path) -> Iterator[Repository]:
    for sort, raw in pickles(marker).items():
        yield Repository(f"config.json is a {sort}", _written(CONFIG, raw))
        yield Repository(f"model.safetensors is a {sort}", _written(WEIGHTS, raw))
        for name in _PICKLED[:3]:
            yield Repository(f"{name} ({sort}) in place of the weights", _replaced(WEIGHTS, name, raw))
    program = _PROGRAM.format(str(marker)).encode()
    yield Repository("config.py in place of config.json", _replaced(CONFIG, "config.py", program))


def _absent() -> Iterator[Repository]:
    for name in (CONFIG, WEIGHTS):
        yield Repository(f"no {name}", lambda folder, name=name: (folder / name).unlink())
        for other in (name.upper(), f".{name}", f"{name}.bak", f"{name}.gz", f"sub/{name}", f"{name} ", f"{name}\n"):
            yield Repository(f"{name} is called {other!r}", lambda folder, n=name, o=other: _moved(folder, n, o))
    for name in ("model.safetensors.index.json", "model-00001-of-00001.safetensors", "adapter_model.safetensors"):
        yield Repository(f"{name} in place of the weights", lambda folder, name=name: _moved(folder, WEIGHTS, name))


def _in_place() -> Iterator[Repository]:
    contents = {
        "empty": b"",
        "an HTML page": b"<!DOCTYPE html><html><body>404</body></html>",
        "a pointer of git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
        "a program": b"#!/bin/sh\ntouch pwned\n",
        "ELF": b"\x7fELF" + bytes(100),
        "GGUF": b"GGUF\3\0\0\0" + bytes(100),
        "HDF5": b"\x89HDF\r\n\x1a\n" + bytes(100),
        "a zip bomb": _zip_bomb(),
        "gzip": gzip.compress(bytes(10_000_000), mtime=0),
    }
    for name in (CONFIG, WEIGHTS):
        for what, raw in contents.items():
            yield Repository(f"{name} is {what}", _written(name, raw))
        for what, make in (("a folder", os.mkdir), ("a pipe", os.mkfifo), ("a socket", _make_socket)):
            yield Repository(f"{name} is {what}", lambda folder, n=name, make=make: _made(folder / n, make))
        yield Repository(f"{name} has 8 GiB of zeros", lambda folder, n=name: _grown(folder / n, 0))
        yield Repository(f"{name} goes on for 8 GiB", lambda folder, n=name: _grown(folder / n, None))
    yield Repository("both names exchanged", _exchanged)
    yield Repository("the weights twice", lambda folder: (folder / CONFIG).write_bytes((folder / WEIGHTS).read_bytes()))


def _linked() -> Iterator[Repository]:
    targets = ("absent", "config.json", "model.safetensors", "..", "/", "/dev/zero", "/dev/null", "/proc/self/mem")
    for name in (CONFIG, WEIGHTS):
        for to in (*targets, "/etc/passwd", "/proc/self/environ"):
            yield Repository(
                f"{name} links to {to}", lambda folder, n=name, to=to: _made(folder / n, lambda p: p.symlink_to(to))
            )
        yield Repository(f"{name} links to a good one", lambda folder, n=name: _behind_link(folder, n), is_good=True)


def _written(name: str, raw: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(raw)


def _replaced(name: str, other: str, raw: bytes) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        (folder / name).unlink()
        (folder / other).write_bytes(raw)

    return change


def _moved(folder: Path, name: str, other: str) -> None:
    (folder / other).parent.mkdir(exist_ok=True)
    (folder / name).rename(folder / other)


def _made(path: Path, make: Callable[[Path], object]) -> None:
    path.unlink()
    make(path)


def _make_socket(path: Path) -> None:
    os.mknod(path, stat.S_IFSOCK | 0o600)


def _grown(path: Path, kept: int | None) -> None:
    """A file of holes: large, and nothing on the disk."""
    if kept is not None:
        os.truncate(path, kept)
    os.truncate(path, GIANT_BYTES)


def _exchanged(folder: Path) -> None:
    config, weights = (folder / CONFIG).read_bytes(), (folder / WEIGHTS).read_bytes()
    (folder / CONFIG).write_bytes(weights)
    (folder / WEIGHTS).write_bytes(config)


def _behind_link(folder: Path, name: str) -> None:
    (folder / "blobs").mkdir()
    (folder / name).rename(folder / "blobs" / "0")
    (folder / name).symlink_to(Path("blobs") / "0")


def _zip_bomb() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("../../data.pkl", bytes(10_000_000))
    return stream.getvalue()
