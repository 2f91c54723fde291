"""Metrics: each file states its conventions, validates its input and holds the metric functions."""
