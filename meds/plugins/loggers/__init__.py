"""Run loggers that ship with meds."""
