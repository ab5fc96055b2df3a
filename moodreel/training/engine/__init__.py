"""The training loop for any network: phases, optimizer, checkpoints, metrics and devices."""
