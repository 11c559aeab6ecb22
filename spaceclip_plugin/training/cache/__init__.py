"""The frozen tower's features, computed once and kept on disk."""
