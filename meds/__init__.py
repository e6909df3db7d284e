"""meds: train defect detectors on image folders that contain unknown defects."""

__version__ = "0.1.0"
