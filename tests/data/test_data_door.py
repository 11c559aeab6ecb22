"""What `spaceclip_plugin.data` offers, and that its examples are true."""

from __future__ import annotations

import doctest
import inspect

import pytest

from spaceclip_plugin import data


def test_names() -> None:
    assert sorted(data.__all__) == sorted(set(data.__all__))
    assert len(data.__all__) <= 12


@pytest.mark.parametrize("name", data.__all__)
def test_each_has_an_example_that_is_true(name: str) -> None:
    thing = getattr(data, name)
    found = doctest.DocTestFinder(recurse=False).find(thing, name, module=inspect.getmodule(thing), globs={})
    examples = [test for test in found if test.examples]
    assert examples
    for test in examples:
        assert doctest.DocTestRunner().run(test).failed == 0
