"""What `spaceclip demo` runs: each demo is a frozen dataclass of settings with a method `run`."""
