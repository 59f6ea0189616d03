"""Requests made by rule: of any kind, wrong somewhere, or of any size."""
