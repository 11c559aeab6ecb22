"""A tower with its head as a model of transformers."""
