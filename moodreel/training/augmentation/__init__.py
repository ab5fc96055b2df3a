"""Change training examples at random: images, spectrograms, sequences of faces, and which modality is there."""
