"""The recipes of the shipped models, and the table of the tasks that presets name."""
