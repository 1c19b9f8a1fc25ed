"""Weights by name: where they come from, and the copies of them on this machine."""
