"""What tests, benchmarks, chaos and load tests share. It imports none of them."""
