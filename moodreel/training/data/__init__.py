"""Read data sets as they are published, split them, and cache the inputs of networks."""
