"""Load tests with locust: users of a language model whose every answer is timed and judged."""
