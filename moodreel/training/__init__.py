"""Train and evaluate the models of the store: `python -m moodreel.training`. The service does not import it."""
