"""Well-known model families: what each one's files are like, and what is expected of it.

`tests/families` proves every row, `scripts.generate` makes docs/model-families.md of them.
"""
