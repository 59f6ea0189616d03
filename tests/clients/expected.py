"""What every client must come to, whichever API it speaks."""

HELLO = "Hello there."
BOTH = "It is 5 degrees and 6 degrees."
"""The answer after a call for each city, which only comes if the history of every turn came through."""
PERSON = {"name": "Ann", "age": 3}
WHO = "I am the server."
THOUGHT = "Hm, well."
THOUGHTFUL = "So it is."
PICTURE = "A picture of 67 bytes."
LONDON = {"city": "London"}
PARIS = {"city": "Paris"}
UNKNOWN = "model 'nosuch' not found"
UNAUTHORIZED = "unauthorized: the API key is not valid"
MODELS = ["m:latest", "emb:latest"]
