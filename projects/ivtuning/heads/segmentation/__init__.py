"""Semantic segmentation: decoders by their papers, losses, and the head that joins them."""
