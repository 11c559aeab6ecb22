"""The decoder published as SPACE-CLIP (arXiv 2601.17657), its fused form, and its checkpoints."""
