"""Paired infrared-visible data: registration, mapping, loading, synthetic scenes."""
