"""The commands of the command line, each in a file, and the reading of options."""
