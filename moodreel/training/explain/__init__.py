"""Show which regions of a face a prediction is based on."""
