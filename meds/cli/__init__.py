"""The command line: parses, calls core, renders with rich. No work is done here."""
