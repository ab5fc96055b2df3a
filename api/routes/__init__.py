"""One blueprint a file. A view gets valid data, calls one function of the domain and returns its result."""
