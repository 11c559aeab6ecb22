"""Weight files that are no longer what was written: cut, flipped, moved, blanked, grown, and noise.

Everything is drawn from fixed seeds, and whatever comes out as it went in is left out.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from targets import LENGTH, Forgery, split

DATA_BITS = 2_000
RUNS = 400
LONGEST_RUN = 64
NOISE = 300


def mutations(raw: bytes) -> Iterator[Forgery]:
    """All of this file's sorts."""
    yield from truncated(raw)
    yield from flipped_header_bits(raw)
    yield from flipped_data_bits(raw)
    yield from swapped_data_bytes(raw)
    yield from changed_runs(raw)
    yield from grown(raw)
    yield from noise(raw)


def truncated(raw: bytes) -> Iterator[Forgery]:
    """The file cut at every length."""
    for length in range(len(raw)):
        yield Forgery("truncated", f"the first {length} bytes", raw[:length])


def flipped_header_bits(raw: bytes) -> Iterator[Forgery]:
    """Every bit of the header's length and of the header, one at a time."""
    for bit in range(8 * (LENGTH.size + len(split(raw)[0]))):
        yield Forgery("header bit", f"bit {bit % 8} of byte {bit // 8}", _flipped(raw, bit))


def flipped_data_bits(raw: bytes) -> Iterator[Forgery]:
    """Bits of the tensors."""
    start = len(raw) - len(split(raw)[1])
    for bit in sorted(random.Random(0).sample(range(8 * start, 8 * len(raw)), DATA_BITS)):
        yield Forgery("data bit", f"bit {bit % 8} of byte {bit // 8}", _flipped(raw, bit))


def swapped_data_bytes(raw: bytes) -> Iterator[Forgery]:
    """Two unequal bytes of the tensors in each other's place, half of them neighbours."""
    drawn = random.Random(1)
    start = len(raw) - len(split(raw)[1])
    for turn in range(RUNS):
        first = drawn.randrange(start, len(raw) - 1)
        second = first + 1 if turn % 2 else drawn.randrange(start, len(raw))
        if raw[first] != raw[second]:
            mutated = bytearray(raw)
            mutated[first], mutated[second] = raw[second], raw[first]
            yield Forgery("swapped bytes", f"bytes {first} and {second}", bytes(mutated))


def changed_runs(raw: bytes) -> Iterator[Forgery]:
    """Runs of bytes anywhere in the file blanked, overwritten, taken out, repeated and moved to the end."""
    drawn = random.Random(2)
    for _ in range(RUNS):
        first = drawn.randrange(len(raw))
        run = raw[first : first + drawn.randint(1, LONGEST_RUN)]
        before, after = raw[:first], raw[first + len(run) :]
        for kind, mutated in (
            ("zeroed run", before + bytes(len(run)) + after),
            ("overwritten run", before + drawn.randbytes(len(run)) + after),
            ("removed run", before + after),
            ("repeated run", before + run + run + after),
            ("moved run", before + after + run),
        ):
            if mutated != raw:
                yield Forgery(kind, f"{len(run)} bytes from {first}", mutated)


def grown(raw: bytes) -> Iterator[Forgery]:
    """Bytes before and after the file."""
    for length in (*range(1, 65), 1 << 10, 1 << 16):
        for filler in (b"\0", b" ", b"\xff"):
            yield Forgery("appended", f"{length} times {filler!r} after the file", raw + filler * length)
            yield Forgery("prepended", f"{length} times {filler!r} before the file", filler * length + raw)
    for name, addition in (("itself", raw), ("a pickle", b"\x80\x04N."), ("an empty zip", b"PK\5\6" + bytes(18))):
        yield Forgery("appended", f"{name} after the file", raw + addition)
        yield Forgery("prepended", f"{name} before the file", addition + raw)


def noise(raw: bytes) -> Iterator[Forgery]:
    """Random bytes alone, after a true length, and after a true header."""
    drawn = random.Random(3)
    header, data = split(raw)
    for turn in range(NOISE):
        junk = drawn.randbytes(drawn.randint(1, len(raw)))
        front = (b"", LENGTH.pack(len(junk)), raw[: LENGTH.size], raw[: LENGTH.size] + header)[turn % 4]
        tail = drawn.randbytes(len(data)) if turn % 4 == 3 else junk
        yield Forgery("noise", f"noise {turn}", front + tail)


def _flipped(raw: bytes, bit: int) -> bytes:
    mutated = bytearray(raw)
    mutated[bit // 8] ^= 1 << bit % 8
    return bytes(mutated)
