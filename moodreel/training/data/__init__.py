"""Readers of sets as they are published, and the splits of what they read."""
