"""Measure models, and calibrate their probabilities."""
