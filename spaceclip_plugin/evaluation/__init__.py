"""Metrics, protocols and the evaluation loop."""
