"""Models as one file that runs without PyTorch."""
