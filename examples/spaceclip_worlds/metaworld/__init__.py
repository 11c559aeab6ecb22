"""Meta-World's fifty manipulation tasks, drawn with exact depth by MuJoCo: the data source `metaworld:`, and clips."""
