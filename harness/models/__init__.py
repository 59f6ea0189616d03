"""Tiny models that the real engine can load, trained here to give exact answers."""
