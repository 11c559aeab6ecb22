from __future__ import annotations

import errno
import json
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from spaceclip_plugin._files import (
    MAX_JSON_BYTES,
    atomic_folder,
    atomic_path,
    read_json_object,
    sync_to_disk,
    write_json,
)
from spaceclip_plugin.errors import CheckpointError, ConfigError


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def fail_half_way(path: Path, error: type[BaseException]) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(b"hal")
        raise error("half way")


class TestAtomicPath:
    def test_a_finished_block_leaves_only_the_file(self, tmp_path: Path) -> None:
        with atomic_path(tmp_path / "head.bin") as temporary:
            temporary.write_bytes(b"whole")
            assert temporary.parent == tmp_path
            assert temporary.suffix == ".bin"
            assert not (tmp_path / "head.bin").exists()
        assert names(tmp_path) == ["head.bin"]
        assert (tmp_path / "head.bin").read_bytes() == b"whole"

    @pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
    def test_a_failed_block_leaves_nothing(self, tmp_path: Path, error: type[BaseException]) -> None:
        with pytest.raises(error, match="half way"):
            fail_half_way(tmp_path / "head.bin", error)
        assert names(tmp_path) == []

    def test_a_failed_block_keeps_the_old_file(self, tmp_path: Path) -> None:
        old = write(tmp_path / "head.bin", b"old")
        with pytest.raises(RuntimeError, match="half way"):
            fail_half_way(old, RuntimeError)
        assert names(tmp_path) == ["head.bin"]
        assert old.read_bytes() == b"old"

    def test_a_finished_block_replaces_the_old_file(self, tmp_path: Path) -> None:
        old = write(tmp_path / "head.bin", b"old and longer")
        with atomic_path(old) as temporary:
            temporary.write_bytes(b"new")
        assert old.read_bytes() == b"new"

    def test_a_block_that_writes_nothing_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "head.bin"):
            pass
        assert names(tmp_path) == []

    def test_missing_folders_are_created(self, tmp_path: Path) -> None:
        with atomic_path(str(tmp_path / "a" / "b" / "head.bin")) as temporary:
            temporary.write_bytes(b"whole")
        assert (tmp_path / "a" / "b" / "head.bin").read_bytes() == b"whole"

    def test_a_folder_in_the_way_is_refused_before_the_block_runs(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="it is a folder"), atomic_path(tmp_path):
            pytest.fail("the block ran")

    def test_a_file_where_a_folder_must_be_is_refused(self, tmp_path: Path) -> None:
        write(tmp_path / "taken", b"")
        with pytest.raises(ConfigError, match="cannot create the folder"), atomic_path(tmp_path / "taken" / "x.bin"):
            pytest.fail("the block ran")

    def test_a_link_is_replaced_and_its_target_left_alone(self, tmp_path: Path) -> None:
        blob = write(tmp_path / "blob", b"shared with others")
        link = tmp_path / "head.bin"
        link.symlink_to(blob)
        with atomic_path(link) as temporary:
            temporary.write_bytes(b"mine")
        assert not link.is_symlink()
        assert link.read_bytes() == b"mine"
        assert blob.read_bytes() == b"shared with others"

    def test_two_writers_at_once_do_not_meet(self, tmp_path: Path) -> None:
        with atomic_path(tmp_path / "x") as first, atomic_path(tmp_path / "x") as second:
            assert first != second
            first.write_bytes(b"outer, renamed last")
            second.write_bytes(b"inner")
        assert (tmp_path / "x").read_bytes() == b"outer, renamed last"
        assert names(tmp_path) == ["x"]

    def test_the_longest_name_still_works(self, tmp_path: Path) -> None:
        target = tmp_path / ("ö" * 125 + ".bin")
        with atomic_path(target) as temporary:
            temporary.write_bytes(b"whole")
        assert target.read_bytes() == b"whole"

    @pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX's")
    def test_others_may_read_it_as_the_umask_says(self, tmp_path: Path) -> None:
        plain = write(tmp_path / "plain", b"")
        with atomic_path(tmp_path / "atomic") as temporary:
            temporary.write_bytes(b"")
        assert stat.S_IMODE((tmp_path / "atomic").stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


def fail_with_a_folder_half_made(path: Path, error: type[BaseException]) -> None:
    with atomic_folder(path) as temporary:
        (temporary / "deep").mkdir()
        (temporary / "deep" / "half.bin").write_bytes(b"hal")
        raise error("half way")


class TestAtomicFolder:
    def test_a_finished_block_leaves_only_the_folder(self, tmp_path: Path) -> None:
        with atomic_folder(str(tmp_path / "a" / "run")) as temporary:
            (temporary / "deep").mkdir()
            (temporary / "deep" / "head.bin").write_bytes(b"whole")
            assert re.fullmatch(r"\.run\.[0-9a-f]{12}\.tmp", temporary.name)
            assert names(tmp_path / "a") == [temporary.name]
        assert names(tmp_path / "a") == ["run"]
        assert (tmp_path / "a" / "run" / "deep" / "head.bin").read_bytes() == b"whole"

    @pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
    def test_a_failed_block_leaves_nothing(self, tmp_path: Path, error: type[BaseException]) -> None:
        with pytest.raises(error, match="half way"):
            fail_with_a_folder_half_made(tmp_path / "run", error)
        assert names(tmp_path) == []

    @pytest.mark.parametrize("kind", ["file", "folder", "broken link"])
    def test_what_is_there_is_refused_before_the_block_runs(self, tmp_path: Path, kind: str) -> None:
        target = tmp_path / "run"
        {"file": target.touch, "folder": target.mkdir, "broken link": lambda: target.symlink_to("nowhere")}[kind]()
        with pytest.raises(ConfigError, match="it is there already"), atomic_folder(target):
            pytest.fail("the block ran")
        assert names(tmp_path) == ["run"]

    def test_a_file_where_a_folder_must_be_is_refused(self, tmp_path: Path) -> None:
        write(tmp_path / "taken", b"")
        with pytest.raises(ConfigError, match="cannot create the folder"), atomic_folder(tmp_path / "taken" / "run"):
            pytest.fail("the block ran")

    @pytest.mark.skipif(os.name != "posix", reason="folders are synced on POSIX alone")
    def test_all_in_it_is_synced_before_the_rename_and_its_parent_after(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        synced: list[tuple[int, bool]] = []
        target = tmp_path / "run"
        monkeypatch.setattr(os, "fsync", lambda handle: synced.append((os.fstat(handle).st_ino, target.exists())))
        with atomic_folder(target) as temporary:
            (temporary / "deep").mkdir()
            (temporary / "deep" / "head.bin").write_bytes(b"whole")
        inside = [target / "deep", target / "deep" / "head.bin", target]
        assert sorted(synced) == sorted(
            [*((path.stat().st_ino, False) for path in inside), (tmp_path.stat().st_ino, True)]
        )


@pytest.mark.skipif(os.name != "posix", reason="folders are synced on POSIX alone")
class TestSyncToDisk:
    def test_an_error_names_the_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = write(tmp_path / "head.bin", b"")
        monkeypatch.setattr(os, "fsync", self.failing(errno.EINVAL))
        with pytest.raises(OSError, match="EINVAL") as caught:
            sync_to_disk(path)
        assert (caught.value.errno, caught.value.filename) == (errno.EINVAL, str(path))

    @pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP])
    def test_a_file_system_without_it_for_folders_will_do(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
    ) -> None:
        monkeypatch.setattr(os, "fsync", self.failing(number))
        sync_to_disk(tmp_path)

    def test_a_folder_that_cannot_be_written_is_an_error(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "fsync", self.failing(errno.EIO))
        with pytest.raises(OSError, match="EIO") as caught:
            sync_to_disk(tmp_path)
        assert caught.value.filename == str(tmp_path)

    @staticmethod
    def failing(number: int) -> Callable[[int], None]:
        def fsync(_: int) -> None:
            raise OSError(number, errno.errorcode[number])

        return fsync


class TestReadJsonObject:
    def test_reads_what_write_json_wrote(self, tmp_path: Path) -> None:
        content = {"name": "Tiefe – 深度", "fractions": [0.25, 1.0], "deep": {"n": 3, "none": None, "yes": True}}
        write_json(tmp_path / "config.json", content)
        assert read_json_object(tmp_path / "config.json") == content
        assert list(read_json_object(tmp_path / "config.json")) == ["name", "fractions", "deep"]

    @pytest.mark.parametrize(
        ("content", "complaint"),
        [
            (b"", "not valid JSON"),
            (b"{", "not valid JSON"),
            (b'{"a": 1} {"a": 2}', "Extra data"),
            (b"{'a': 1}", "not valid JSON"),
            (b'{"a": 1, "a": 2}', "'a' appears twice"),
            (b'{"deep": [{"a": 1, "a": 1}]}', "'a' appears twice"),
            (b'{"a": NaN}', "NaN is not a finite number"),
            (b'{"a": -Infinity}', "-Infinity is not a finite number"),
            (b'{"a": 1e999}', "1e999 is not a finite number"),
            (b'{"a": ' + b"9" * 5000 + b"}", "not valid JSON"),
            (b'{"a": "\xff"}', "not valid JSON: 'utf-8'"),
            (b"\xef\xbb\xbf{}", "BOM"),
            ('{"a": 1}'.encode("utf-16"), "not valid JSON"),
            (b"[1, 2]", "holds a JSON list, expected an object"),
            (b"null", "holds a JSON NoneType"),
            (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "nests too deeply"),
            (b"[" * 500_000, "nests too deeply"),
            (b'{"a": "' + b"x" * MAX_JSON_BYTES + b'"}', "larger than 1048576 bytes"),
        ],
        ids=lambda value: None if isinstance(value, str) else repr(value[:16]),
    )
    def test_anything_else_is_refused_by_name(self, tmp_path: Path, content: bytes, complaint: str) -> None:
        path = write(tmp_path / "config.json", content)
        with pytest.raises(CheckpointError, match=complaint) as caught:
            read_json_object(path)
        assert str(path) in str(caught.value)
        assert len(str(caught.value)) < len(str(path)) + 300

    def test_a_file_of_exactly_the_limit_is_read(self, tmp_path: Path) -> None:
        frame = b'{"a": ""}'
        path = write(tmp_path / "big.json", frame[:-2] + b"x" * (MAX_JSON_BYTES - len(frame)) + frame[-2:])
        assert path.stat().st_size == MAX_JSON_BYTES
        assert len(str(read_json_object(path)["a"])) == MAX_JSON_BYTES - len(frame)

    def test_a_limit_of_the_caller_s_own(self, tmp_path: Path) -> None:
        path = write(tmp_path / "config.json", b'{"a": 1}')
        assert read_json_object(path, max_bytes=8) == {"a": 1}
        with pytest.raises(CheckpointError, match="larger than 7 bytes"):
            read_json_object(path, max_bytes=7)

    @pytest.mark.parametrize("name", ["absent.json", "."])
    def test_no_file_is_said_so(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(CheckpointError, match="is not a file"):
            read_json_object(tmp_path / name)


class TestWriteJson:
    def test_text_is_for_people_too(self, tmp_path: Path) -> None:
        write_json(tmp_path / "a.json", {"name": "ö", "n": 1})
        assert (tmp_path / "a.json").read_text(encoding="utf-8") == '{\n  "name": "ö",\n  "n": 1\n}\n'
        assert json.loads((tmp_path / "a.json").read_bytes()) == {"name": "ö", "n": 1}

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), {1, 2}])
    def test_what_json_cannot_say_writes_nothing(self, tmp_path: Path, value: object) -> None:
        old = write(tmp_path / "a.json", b"{}")
        with pytest.raises(ConfigError, match=r"a\.json"):
            write_json(old, {"bad": value})
        assert names(tmp_path) == ["a.json"]
        assert old.read_bytes() == b"{}"
