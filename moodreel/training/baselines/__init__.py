"""Baselines that a network has to beat: logistic regressions on hand-crafted features."""
