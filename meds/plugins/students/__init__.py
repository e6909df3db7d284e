"""Reconstruction networks that ship with meds."""
