"""What the pages show is what was recorded: each table is made from its record, wherever it stands."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [path for path in ROOT.rglob("*.md") if not {".venv", ".matrix", "runs"} & set(path.relative_to(ROOT).parts)]
# The marker around a table, the benchmark that makes it, and the function that does.
TABLES = [
    ("alignment", "alignment", "table"),
    ("attacks", "attacks", "table"),
    ("caching", "caching", "table"),
    ("closed-loop", "closed_loop", "table"),
    ("contracts", "version_matrix", "contract_table"),
    ("cost-heads", "step_tables", "heads"),
    ("cost-policies", "step_tables", "policies"),
    ("cost-towers", "step_tables", "towers"),
    ("cost-training", "step_tables", "training"),
    ("deployed", "deployed", "table"),
    ("front-page", "front_page", "table"),
    ("graft-policies", "graft_policies", "table"),
    ("metaworld-acting", "metaworld_acting", "table"),
    ("metaworld-heads", "metaworld_heads", "table"),
    ("metaworld-unseen", "metaworld_acting", "unseen_table"),
    ("nyu-heads", "nyu_heads", "table"),
    ("policies", "policies", "table"),
    ("presets", "step_tables", "presets"),
    ("scale-filter", "scale_filter", "table"),
    ("steady", "steady", "table"),
    ("trusted-training", "trusted_training", "table"),
    ("true-metres", "true_metres", "table"),
    ("version-matrix", "version_matrix", "table"),
]


def shown(marker: str) -> str:
    """The table between two comments of the one page that has them."""
    found = [
        text
        for page in PAGES
        for text in re.findall(rf"<!-- {marker} -->\n(.*?)\n<!-- /{marker} -->", page.read_text(), re.DOTALL)
    ]
    assert len(found) == 1, f"{len(found)} tables {marker}"
    return found[0].strip()


@pytest.mark.parametrize(("marker", "benchmark", "function"), TABLES, ids=[marker for marker, *_ in TABLES])
def test_a_table_is_that_of_its_record(marker: str, benchmark: str, function: str) -> None:
    module: Any = importlib.import_module(benchmark)
    record = json.loads(module.RECORD.read_text())
    assert shown(marker) == getattr(module, function)(record), f"not {benchmark}.{function} of {module.RECORD.name}"


def test_every_table_of_a_page_is_checked() -> None:
    markers = {marker for page in PAGES for marker in re.findall(r"<!-- /([a-z-]+) -->", page.read_text())}
    assert markers == {marker for marker, *_ in TABLES}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text()
    for target, _, anchor in re.findall(r"\]\(([^)#\s]*)(#([^)\s]*))?\)", text):
        if target.startswith("https://"):
            continue
        there = page.parent / target if target else page
        assert there.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.*)$", there.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}, anchor


def test_nothing_recorded_names_a_machine() -> None:
    for path in (ROOT / "benchmarks" / "results").glob("*.json"):
        assert not re.search(r"\"(/|~|[A-Z]:\\\\)", path.read_text()), path.name
