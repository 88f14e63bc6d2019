"""What counts as an edge of depth: one rule for the loss of lost edges and for the metrics of edges."""

EDGE_DISTANCES_PX = (1, 2, 4, 8)  # between the two ends of a difference, to the right and downwards
EDGE_LOG_STEP = 0.05  # the change of log depth above which such a difference is an edge
