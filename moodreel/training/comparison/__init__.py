"""Compare models on the same examples, and write the report."""
