"""What is measured: trunks, the plain reference, and random batches."""
