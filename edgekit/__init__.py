"""edgekit: from a PyTorch network to a proven edge engine."""

__version__ = "0.1.0"
