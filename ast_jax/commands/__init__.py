"""The commands: flags make a configuration, and one library call does the rest."""
