"""`fit`: any architecture, any set: what a study needs, from the examples to the card."""
