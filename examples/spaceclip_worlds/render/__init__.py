"""A ray-caster for scenes with exact metric depth: CPU only, no OpenGL, no assets."""
