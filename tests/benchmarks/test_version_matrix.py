"""The version matrix: what it reads, records and says, without building an environment."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import version_matrix as matrix

ROOT = Path(__file__).resolve().parents[2]

JUNIT = """<?xml version="1.0" encoding="utf-8"?>
<testsuites><testsuite name="pytest" errors="2" failures="1" skipped="1" tests="6">
  <testcase classname="tests.adapters.test_a.TestA" name="test_fine[clip]" time="0.1"/>
  <testcase classname="tests.adapters.test_a" name="test_fine" time="0.1"/>
  <testcase classname="tests.adapters.test_a" name="test_absent"><skipped message="needs data"/></testcase>
  <testcase classname="tests.adapters.test_a.TestA" name="test_wrong[clip]">
    <failure message="AssertionError: /home/a/project/test_a.py is wrong&#10;assert 1 == 2">long text</failure>
  </testcase>
  <testcase classname="tests.adapters.test_a.TestA" name="test_wrong[clip]">
    <error message="failed on teardown with &quot;ValueError: late&quot;">long text</error>
  </testcase>
  <testcase classname="" name="tests.adapters.test_b">
    <error message="collection failure">ImportError while importing
tests/adapters/test_b.py:1: in &lt;module&gt;
E   ImportError: cannot import name 'CLIP' from 'open_clip' (/opt/envs/x/open_clip/__init__.py)</error>
  </testcase>
</testsuite></testsuites>
"""


def recorded(name: str, source: str | None = "a" * 16, **more: Any) -> dict[str, Any]:
    row = {"row": name, "tests": "tests/adapters", "warnings_are_errors": False, "commit": "c" * 40, "dirty": False}
    row["source"] = source
    counts = {"passed": 3, "failed": 0, "skipped": 0, "failures": [], "seconds": 1}
    return {**row, "result": "passed", "versions": {"python": "3.12.1", "torch": "2.6.0"}, **counts, **more}


def fake_pytest(folder: Path, *, code: int, junit: str | None, output: str = "") -> Path:
    """Stands in for the interpreter of an environment; its arguments land in `argv`."""
    script = folder / "python"
    lines = ["#!/usr/bin/env python3", "import json, os, sys", "from pathlib import Path"]
    lines += [f"Path({str(folder / 'argv')!r}).write_text(json.dumps([*sys.argv, os.environ['OMP_NUM_THREADS']]))"]
    if junit is not None:
        lines += ["report = next(arg for arg in sys.argv if arg.startswith('--junitxml=')).partition('=')[2]"]
        lines += [f"Path(report).write_text({junit!r})"]
    lines += [f"print({output!r})", f"sys.exit({code})"]
    script.write_text("\n".join(lines).replace("/usr/bin/env python3", sys.executable))
    script.chmod(0o755)
    return script


class TestJunit:
    def test_counts_names_and_first_lines(self, tmp_path: Path) -> None:
        (tmp_path / "junit.xml").write_text(JUNIT)
        assert matrix.read_junit(tmp_path / "junit.xml") == {
            "passed": 2,
            "failed": 2,
            "skipped": 1,
            "failures": [
                {
                    "test": "tests.adapters.test_a.TestA::test_wrong[clip]",
                    "reason": "AssertionError: test_a.py is wrong",
                },
                {
                    "test": "tests.adapters.test_b",
                    "reason": "ImportError: cannot import name 'CLIP' from 'open_clip' (__init__.py)",
                },
            ],
        }

    def test_of_the_installed_pytest(self, tmp_path: Path) -> None:
        (tmp_path / "test_x.py").write_text(
            "import pytest\n"
            "def test_good(): pass\n"
            "def test_bad(): assert [1] == [2], 'first line\\nsecond line'\n"
            "def test_skipped(): pytest.skip('why not')\n"
            "@pytest.fixture\n"
            "def broken(): raise RuntimeError('no such thing')\n"
            "def test_error(broken): pass\n"
        )
        (tmp_path / "test_y.py").write_text("import no_such_module_at_all\n")
        command = [sys.executable, "-m", "pytest", "-c", "/dev/null", "--rootdir", ".", "--junitxml=junit.xml"]
        command += ["--continue-on-collection-errors", "-p", "no:cacheprovider", "-p", "no:hypothesispytest"]
        subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
        found = matrix.read_junit(tmp_path / "junit.xml")
        assert (found["passed"], found["failed"], found["skipped"]) == (1, 3, 1)
        assert sorted((failure["test"], failure["reason"]) for failure in found["failures"]) == [
            ("test_x::test_bad", "AssertionError: first line"),
            ("test_x::test_error", "failed on setup with \"RuntimeError: no such thing\""),
            ("test_y", "ModuleNotFoundError: No module named 'no_such_module_at_all'"),
        ]  # fmt: skip

    @pytest.mark.parametrize(
        ("text", "shown"),
        [
            ("in /home/a/b-c/x.py:3", "in x.py:3"),
            ("('/opt/e/lib/python3.12/site-packages/y.py')", "('y.py')"),
            ("failed to fetch https://user:secret@host.example/simple/torch/", "failed to fetch URL"),
            ("2/3 of tests/a/b.py, 1 / 2 and a/b", "2/3 of tests/a/b.py, 1 / 2 and a/b"),
        ],
    )
    def test_no_folder_or_address_of_the_machine(self, text: str, shown: str) -> None:
        assert matrix.without_paths(text) == shown


class TestRunningTests:
    def run(self, python: Path, **row: Any) -> dict[str, Any]:
        found: dict[str, Any] = matrix.run_tests(python, matrix.Row("x", "3.12", (), **row))
        assert found.pop("seconds") >= 0
        return found

    def test_passed(self, tmp_path: Path) -> None:
        junit = '<testsuite><testcase classname="a" name="b"/></testsuite>'
        found = self.run(fake_pytest(tmp_path, code=0, junit=junit))
        assert found.pop("contracts") == {}
        assert found == {"result": "passed", "passed": 1, "failed": 0, "skipped": 0, "failures": []}

    def test_failed(self, tmp_path: Path) -> None:
        found = self.run(fake_pytest(tmp_path, code=1, junit=JUNIT))
        assert (found["result"], found["failed"]) == ("failed", 2)

    @pytest.mark.parametrize(
        ("code", "junit", "output", "reason"),
        [
            (-11, None, "Fatal error in /home/a/b/x.so\n", "exit code 245: Fatal error in x.so"),
            (1, "<testsuite><testcase", "cut off", "exit code 1: cut off"),
            (5, "<testsuite/>", "no tests ran in 0.01s", "exit code 5: no tests ran in 0.01s"),
        ],
        ids=["crash", "half a report", "no tests"],
    )
    def test_an_end_without_results_is_a_failure(
        self, tmp_path: Path, code: int, junit: str | None, output: str, reason: str
    ) -> None:
        found = self.run(fake_pytest(tmp_path, code=code % 256, junit=junit, output=output))
        assert found["result"] == "failed"
        assert found["failures"] == [{"test": "pytest", "reason": reason}]

    @pytest.mark.parametrize("strict", [True, False])
    def test_one_thread_and_warnings(self, tmp_path: Path, strict: bool) -> None:
        self.run(fake_pytest(tmp_path, code=0, junit=JUNIT), tests="tests/head", strict=strict)
        *argv, threads = json.loads((tmp_path / "argv").read_text())
        assert threads == "1"
        assert argv[1:6] == ["-m", "pytest", "tests/head", "-m", "not slow"]
        assert ("filterwarnings=default" in argv) is not strict


class TestEnvironments:
    def test_a_missing_python_is_not_run_and_not_passed(self, tmp_path: Path) -> None:
        result = matrix.run_row(matrix.Row("x", "3.99", ()), tmp_path / "x", tmp_path / "r.json", fresh=False)
        assert (result["result"], result["reason"]) == ("not run", "no Python 3.99 on this machine")
        assert "versions" not in result
        assert not (tmp_path / "x").exists()

    def test_this_python_is_found_whatever_else_is_on_the_path(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        version = "{}.{}".format(*sys.version_info)
        shim = tmp_path / f"python{version}"
        shim.write_text("#!/bin/sh\necho 'command not found' >&2\nexit 127\n")
        shim.chmod(0o755)
        monkeypatch.setattr(matrix, "python_candidates", lambda _version: ["", str(shim), sys.executable])
        assert matrix.find_python(version) == sys.executable
        monkeypatch.setattr(matrix, "python_candidates", lambda _version: ["", str(shim)])
        with pytest.raises(matrix.CannotRunError):
            matrix.find_python(version)

    def test_pyenv_is_searched(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
        monkeypatch.setenv("PATH", "")
        for patch in ("3.98.2", "3.9.1"):
            (tmp_path / "versions" / patch / "bin").mkdir(parents=True)
            (tmp_path / "versions" / patch / "bin" / f"python{patch.rpartition('.')[0]}").touch()
        found = [candidate for candidate in matrix.python_candidates("3.98") if candidate]
        assert found == [str(tmp_path / "versions" / "3.98.2" / "bin" / "python3.98")]

    @pytest.fixture
    def commands(self, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
        """Commands that would be called; those that make an environment leave a folder that looks like one."""
        called: list[list[str]] = []

        def call(command: list[Any], **environment: str) -> subprocess.CompletedProcess[str]:
            called.append([*map(str, command), *(f"{name}={value}" for name, value in sorted(environment.items()))])
            if "venv" in command:
                folder = Path(command[-1])
                folder.mkdir(parents=True)
                (folder / "pyvenv.cfg").touch()
            failing = "no-such-package" in command
            return subprocess.CompletedProcess(called[-1], int(failing), "", "uv says\n  no /a/b/version\n")

        monkeypatch.setattr(matrix, "call", call)
        monkeypatch.setattr(matrix, "find_python", lambda _version: "/python")
        monkeypatch.setattr(matrix.shutil, "which", lambda name: f"/bin/{name}")
        for name in ("UV_FIND_LINKS", "PIP_FIND_LINKS"):
            monkeypatch.delenv(name, raising=False)
        return called

    def test_with_uv_and_local_wheels(
        self, tmp_path: Path, commands: list[list[str]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PIP_FIND_LINKS", "/wheels")
        python = matrix.make_environment(matrix.Row("x", "3.12", ("torch==2.6.0",)), tmp_path / "x", fresh=False)
        assert python == tmp_path / "x" / "bin" / "python"
        make, install = commands
        assert make == ["/bin/uv", "venv", "--python", "/python", str(tmp_path / "x"), "UV_FIND_LINKS=/wheels"]
        assert install[:7] == ["/bin/uv", "pip", "install", "--python", str(python), "--quiet", "torch==2.6.0"]
        assert install[-3:] == ["-e", str(ROOT), "UV_FIND_LINKS=/wheels"]

    def test_without_uv(self, tmp_path: Path, commands: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(matrix.shutil, "which", lambda _name: None)
        python = matrix.make_environment(matrix.Row("x", "3.12", ()), tmp_path / "x", fresh=False)
        make, install = commands
        assert make == ["/python", "-m", "venv", str(tmp_path / "x")]
        assert install[:4] == [str(python), "-m", "pip", "install"]

    def test_used_again_until_something_changes(
        self, tmp_path: Path, commands: list[list[str]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(matrix, "ROOT", tmp_path)
        project = tmp_path / "pyproject.toml"
        project.write_text("[project]\n[tool.ruff]\n")
        row, other = matrix.Row("x", "3.12", ("torch==2.6.0",)), matrix.Row("x", "3.12", ("torch==2.9.1",))

        def steps(chosen: Any, *, fresh: bool = False) -> list[str]:
            commands.clear()
            matrix.make_environment(chosen, tmp_path / "x", fresh=fresh)
            return [command[1] for command in commands]

        assert steps(row) == ["venv", "pip"]
        assert steps(row) == []
        assert steps(row, fresh=True) == ["venv", "pip"]
        assert steps(other) == ["venv", "pip"]
        project.write_text("[project]\n[tool.mypy]\n")
        assert steps(other) == []
        project.write_text("[project]\nname = 'y'\n[tool.mypy]\n")
        assert steps(other) == ["pip"]
        assert steps(other) == []

    def test_a_folder_that_is_no_environment_is_left_alone(self, tmp_path: Path, commands: list[list[str]]) -> None:
        (tmp_path / "precious").touch()
        with pytest.raises(FileExistsError):  # of the stand-in: uv and venv have their own say
            matrix.make_environment(matrix.Row("x", "3.12", ()), tmp_path, fresh=True)
        assert (tmp_path / "precious").exists()
        assert len(commands) == 1

    @pytest.mark.usefixtures("commands")
    def test_packages_that_cannot_be_installed(self, tmp_path: Path) -> None:
        row = matrix.Row("x", "3.12", ("no-such-package",))
        with pytest.raises(matrix.CannotRunError) as raised:
            matrix.make_environment(row, tmp_path / "x", fresh=False)
        assert raised.value.args == ("not installed", "uv says no version")
        assert not (tmp_path / "x" / matrix.MARKER).exists()
        result = matrix.run_row(row, tmp_path / "x", tmp_path / "r.json", fresh=False)
        assert (result["result"], result["reason"]) == ("not installed", "uv says no version")


class TestRecord:
    def test_rows_of_before_stay_only_with_the_same_sources(self) -> None:
        lowest, middle, newest = "lowest", "transformers-5.0", "newest"
        earlier = [recorded(newest), recorded(middle, "b" * 16), recorded(lowest, passed=1), recorded("gone")]
        merged = matrix.merged(earlier, [recorded(lowest, passed=2)])
        assert [(row["row"], row["passed"]) for row in merged] == [(lowest, 2), (newest, 3)]
        assert [row["row"] for row in matrix.merged([recorded(newest, None)], [recorded(lowest, None)])] == [lowest]

    @pytest.mark.parametrize(
        ("results", "code"),
        [
            (["passed", "passed"], 0),
            (["passed", "failed"], 1),
            (["passed", "not run"], 0),
            (["passed", "not installed"], 1),
            (["not run", "not run"], 1),
        ],
    )
    def test_exit_code_and_file(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, results: list[str], code: int
    ) -> None:
        outcomes = iter(results)
        monkeypatch.setattr(
            matrix, "run_row", lambda row, *_, **__: recorded(row.name, result=next(outcomes), reason="so")
        )
        path = tmp_path / "new" / "record.json"
        argv = ["--rows", "newest", "lowest", "--record", str(path), "--envs", str(tmp_path)]
        assert matrix.main(argv) == code
        record = json.loads(path.read_text())
        assert [row["row"] for row in record["rows"]] == ["lowest", "newest"]
        assert [row["result"] for row in record["rows"]] == results
        assert [file.name for file in path.parent.iterdir()] == ["record.json"]

    def test_rows_that_ended_before_an_interruption_are_recorded(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def run_row(row: Any, *_: Any, **__: Any) -> dict[str, Any]:
            if row.name != "lowest":
                raise KeyboardInterrupt
            return recorded(row.name)

        monkeypatch.setattr(matrix, "run_row", run_row)
        with pytest.raises(KeyboardInterrupt):
            matrix.main(["--record", str(tmp_path / "record.json"), "--envs", str(tmp_path)])
        assert [row["row"] for row in json.loads((tmp_path / "record.json").read_text())["rows"]] == ["lowest"]

    def test_commit_and_changes(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(matrix, "ROOT", tmp_path)
        record = tmp_path / "record.json"
        assert matrix.source_state(record) == {"commit": None, "dirty": None, "source": None}
        identity = ("-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false")

        def git(*command: str) -> None:
            subprocess.run(["git", *command], cwd=tmp_path, check=True)

        git("init", "-q")
        git(*identity, "commit", "-q", "--allow-empty", "-m", "x")
        empty = matrix.source_state(record)["source"]
        record.touch()
        state = matrix.source_state(record)
        assert re.fullmatch("[0-9a-f]{40}", state["commit"])
        assert state["dirty"] is False
        (tmp_path / "other").touch()
        assert matrix.source_state(record)["dirty"] is True
        (tmp_path / "README.md").touch()
        git("add", "README.md", "record.json")
        git(*identity, "commit", "-q", "-m", "a page and a record are no sources")
        assert matrix.source_state(record)["source"] == empty
        git("add", "other")
        git(*identity, "commit", "-q", "-m", "this is")
        assert matrix.source_state(record)["source"] != empty


class TestTable:
    def test_cells(self) -> None:
        reasons = ("once", "a | b", "a | b", "c", "d", "e")
        failures = [{"test": f"tests.test_a::test_{i}[x|y]", "reason": reason} for i, reason in enumerate(reasons)]
        rows = [
            recorded("lowest", tests="tests", passed=7, skipped=2),
            recorded("transformers-5.0", result="failed", failed=6, failures=failures, dirty=True),
            {"row": "newest", "tests": "tests", "dirty": False, "result": "not run", "reason": "no Python 3.13 here"},
        ]
        header, rule, *lines = matrix.table({"rows": rows}).splitlines()
        assert header.count("|") == rule.count("|") == 11
        assert lines == [
            "| lowest | 3.12.1 | 2.6.0 | – | – | – | – | the whole suite | 7 passed, 2 skipped | – |",
            "| transformers-5.0 | 3.12.1 | 2.6.0 | – | – | – | – | `tests/adapters` "
            "| 3 passed, 6 failed (uncommitted changes) | 2 × a \\| b (`test_a::test_1[x\\|y]`); "
            "1 × once (`test_a::test_0[x\\|y]`); 1 × c (`test_a::test_3[x\\|y]`); 2 × other reasons |",
            "| newest | – | – | – | – | – | – | the whole suite | not run | no Python 3.13 here |",
        ]

    def test_options(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "r.json").write_text(json.dumps({"rows": [recorded("newest")]}))
        assert matrix.main(["--table", "--record", str(tmp_path / "r.json")]) == 0
        assert "| newest | 3.12.1 | 2.6.0 |" in capsys.readouterr().out
        assert matrix.main(["--list"]) == 0
        assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == [r.name for r in matrix.ROWS]

    def test_contracts_by_host(self, tmp_path: Path) -> None:
        def case(module: str, name: str, inside: str = "") -> str:
            return f'<testcase classname="{module}" name="{name}">{inside}</testcase>'

        def anchor(name: str) -> str:
            pairs = {"contract": name, "adapter": "clip", "host": "Model", "tower": "Eye"}
            inner = "".join(f'<property name="{key}" value="{value}"/>' for key, value in pairs.items())
            return f"<properties>{inner}</properties>"

        cases = [
            case("a", "test_described[clip]", anchor("clip")),
            case("a", "test_described[clip-wide]", anchor("clip-wide")),
            case("a", "test_maps[clip-wide-0]", '<failure message="no"/>'),
            case("a", "test_maps[clip-0]"),
            case("b", "test_other[clip]", "<skipped/>"),
            case("c", "test_described", anchor("pair")),
            case("c", "test_both[True]"),
            case("d", "test_stranger[clipped]", '<failure message="no"/>'),
        ]
        (tmp_path / "j.xml").write_text(f"<testsuites><testsuite>{''.join(cases)}</testsuite></testsuites>")
        found = matrix.read_contracts(tmp_path / "j.xml")
        assert {name: (one["passed"], one["failed"]) for name, one in found.items()} == {
            "clip": (2, 0),
            "clip-wide": (1, 1),
            "pair": (2, 0),
        }
        rows = [recorded("lowest", contracts={"clip": found["clip"]}), recorded("newest", contracts=found)]
        assert matrix.contract_table({"rows": rows}).splitlines() == [
            "| host | class | tower | adapter | lowest | newest |",
            "|---|---|---|---|---|---|",
            "| clip | `Model` | `Eye` | `clip` | ✓ | ✓ |",
            "| clip-wide | `Model` | `Eye` | `clip` | – | ✗ 1 |",
            "| pair | `Model` | `Eye` | `clip` | – | ✓ |",
        ]
