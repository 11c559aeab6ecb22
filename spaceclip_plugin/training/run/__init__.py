"""The folder of a training run: settings, record, checkpoints, best head."""
