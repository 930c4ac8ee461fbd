"""A program for environments in which one extra is installed and nothing else, run by `.ci/extras`."""
