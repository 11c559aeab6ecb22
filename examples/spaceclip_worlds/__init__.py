"""Worlds to try depth in: a ray-caster, a rover and an arm, each small enough to be embedded."""
