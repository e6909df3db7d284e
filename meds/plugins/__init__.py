"""What ships with meds, registered through the same hooks as anyone's plugin."""
