"""The suite itself: any environment can import all of it at once."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

TESTS = Path(__file__).parent


def test_no_two_modules_have_one_name():
    """Tests and what they import are found by name alone: the second of a name would be the first, or fail."""
    names = Counter(path.stem for path in TESTS.rglob("*.py") if path.stem != "conftest")
    assert [name for name, count in names.items() if count > 1] == []
