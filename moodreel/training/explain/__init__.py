"""Show which regions of a face a prediction comes from."""
