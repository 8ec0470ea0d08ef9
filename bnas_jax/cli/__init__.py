"""The commands of the command line, one file each, and how their options are read."""
