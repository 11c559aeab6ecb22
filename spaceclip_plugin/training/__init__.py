"""Losses, feature cache and the trainer that keeps the host frozen."""
