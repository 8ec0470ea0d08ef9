"""The command line's commands, one file each, and how their options are read."""
