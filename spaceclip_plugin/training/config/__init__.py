"""The settings of a training run, as checked objects and as a file."""
