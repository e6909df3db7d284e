"""Sources of images that ship with meds."""
