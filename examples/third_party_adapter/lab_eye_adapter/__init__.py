"""Example: a tower of a lab's own, and the adapter that reads it."""
