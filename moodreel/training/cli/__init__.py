"""The verbs of `python -m moodreel.training`, one module each, and the options that they share."""
