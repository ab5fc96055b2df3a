"""Augment training examples: images, spectrograms, sequences made from stills, and modality dropout."""
