"""The trunks' attentions: a plain definition, and faster ways to compute the same."""
