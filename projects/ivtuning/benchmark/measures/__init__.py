"""Instruments: time, memory, counted arithmetic, and how a step's time divides."""
