"""Several runs side by side: which runs a spec is taken apart into, a row for each, and what must be said of rows."""
