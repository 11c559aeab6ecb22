"""Teachers by name, for `load_teacher` and the command line: the entry points, one loader a library."""

from __future__ import annotations

from spaceclip_adapters.teachers.transformers import load_hf_teacher

__all__ = ["load_hf_teacher"]
