"""The worst that clients and machines do to a server, done to a real one on purpose, and what was lost."""
