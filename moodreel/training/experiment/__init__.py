"""The parts of every run (options, presets, recipes), and the recipe that trains a classifier of any architecture."""
