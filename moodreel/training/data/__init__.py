"""Read data sets as they are published, split them, and cache what networks read of them."""
