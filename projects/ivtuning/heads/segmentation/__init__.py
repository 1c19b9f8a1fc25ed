"""Semantic segmentation: decoders, losses, the head that combines them, and the segmentor."""
