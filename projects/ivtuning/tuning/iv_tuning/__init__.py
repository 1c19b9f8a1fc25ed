"""IV-tuning: its modules, the method, and three faster ways to compute the same."""
