"""Training and evaluation of the store's models: `python -m moodreel.training`. Nothing that serves uses it."""
