"""What every run is made of (options, presets, recipes), and the recipe that trains any architecture to classify."""
