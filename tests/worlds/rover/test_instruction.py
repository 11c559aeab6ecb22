from __future__ import annotations

import pytest

from spaceclip_plugin.errors import ConfigError
from spaceclip_worlds.rover.instruction import COLOURS, SHAPES, WORDS, encode, instruction_for


def test_words_become_their_numbers() -> None:
    assert [WORDS[number] for number in encode("Drive to  the RED ball")] == ["drive", "to", "the", "red", "ball"]


def test_every_goal_has_an_instruction_of_its_own() -> None:
    told = {encode(instruction_for(colour, shape)) for colour in COLOURS for shape in SHAPES}
    assert len(told) == len(COLOURS) * len(SHAPES) == 12


def test_an_unknown_word_is_refused_with_the_nearest_known_one() -> None:
    with pytest.raises(ConfigError, match=r"does not know the word 'bal' \(did you mean 'ball'\?\); it knows drive"):
        encode("drive to the red bal")


@pytest.mark.parametrize("vague", ["", "drive to the", "drive to the red", "go to the ball", "red ball blue box"])
def test_an_instruction_that_names_no_single_goal_is_refused(vague: str) -> None:
    with pytest.raises(ConfigError, match="one goal by one colour"):
        encode(vague)


@pytest.mark.parametrize("bad", [None, 7, "the " * 17])
def test_what_is_no_short_string_is_refused(bad: object) -> None:
    with pytest.raises(ConfigError, match="string of at most 16 words"):
        encode(bad)  # type: ignore[arg-type]
