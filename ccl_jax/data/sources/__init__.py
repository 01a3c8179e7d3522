"""Where examples come from, one dataset a file."""
