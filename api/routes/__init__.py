"""The routes, one blueprint per file. A view gets valid data, calls one pipeline or store, and returns its result."""
