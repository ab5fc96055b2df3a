"""What comes in and what goes out, a file for each part of the contract. The same classes validate and document."""
