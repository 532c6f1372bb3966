"""Neural style transfer: by changing one image (optimise.py), or with a network that learns it (train.py)."""
