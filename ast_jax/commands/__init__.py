"""The commands: from flags to a configuration to one library call."""
