"""What the commands share: from a config to a run, and from a run to its numbers."""
