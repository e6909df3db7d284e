"""A finished run's detector as one file for other programs."""
