"""What a rover can be told, and how its policy reads it: a few words, each a number."""

from __future__ import annotations

from spaceclip_plugin.errors import ConfigError, nearest
from spaceclip_worlds.checks import shown

COLOURS = ("red", "yellow", "green", "blue")
SHAPES = ("ball", "box", "drum")
WORDS = ("drive", "go", "to", "the", *COLOURS, *SHAPES)
"""Every word there is; its place is its number."""
_MAX_WORDS = 16


def instruction_for(colour: str, shape: str) -> str:
    """The order to drive to a goal, "drive to the red ball"."""
    return f"drive to the {colour} {shape}"


def encode(instruction: str) -> tuple[int, ...]:
    """Numbers of the words of an instruction.

    Raises:
        ConfigError: no string of at most 16 words, an unknown word (the message says which are known and which is
            meant), or not exactly one colour and one shape.
    """
    if not isinstance(instruction, str) or len(words := instruction.lower().split()) > _MAX_WORDS:
        raise ConfigError(f"an instruction is a string of at most {_MAX_WORDS} words, got {shown(instruction)}")
    for word in words:
        if word not in WORDS:
            hint = nearest(word, WORDS)
            raise ConfigError(f"the rover does not know the word {shown(word)}{hint}; it knows {', '.join(WORDS)}")
    if sum(word in COLOURS for word in words) != 1 or sum(word in SHAPES for word in words) != 1:
        raise ConfigError(
            f"an instruction names one goal by one colour ({', '.join(COLOURS)}) and one shape ({', '.join(SHAPES)}), "
            f"such as {instruction_for(COLOURS[0], SHAPES[0])!r}; got {shown(instruction)}"
        )
    return tuple(WORDS.index(word) for word in words)
