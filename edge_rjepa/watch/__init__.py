"""Novelty: what is new in a place, and stays."""
