"""What `spaceclip demo` runs."""
