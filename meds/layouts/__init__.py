"""Recognises how a folder of images is laid out, for `meds init`: which dataset reads it, and what was assumed."""
