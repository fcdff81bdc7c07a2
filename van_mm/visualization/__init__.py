"""Draw predictions and ground truth, and compute maps that explain a network."""
