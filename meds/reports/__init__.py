"""Pages about finished runs that need nothing but a browser."""
