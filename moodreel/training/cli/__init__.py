"""The verbs of `python -m moodreel.training`, one module each, and their shared options."""
