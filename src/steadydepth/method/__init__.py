"""The method in the order the data passes: sequence, pairing, losses, update."""
