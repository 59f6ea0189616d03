"""What only a GPU can prove, as one command of less than ten minutes: `python -m gpu.check`."""
