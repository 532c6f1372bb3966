"""Training: data, recipes, the loop, transfer, style, and the experiment."""
