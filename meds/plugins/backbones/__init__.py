"""Frozen encoders that ship with meds."""
