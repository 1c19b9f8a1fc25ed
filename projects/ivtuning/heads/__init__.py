"""Tasks besides detection: what stands on a tuned trunk, as detectron2 meta-architectures."""
