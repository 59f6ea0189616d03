"""A streamed chat with MODEL at OLLAMA_HOST: prints it, and fails unless it is whole and not empty."""

import json
import os
import urllib.request

question = {"role": "user", "content": "What is the capital of France?"}
body = {"model": os.environ["MODEL"], "messages": [question]}
request = urllib.request.Request(os.environ["OLLAMA_HOST"] + "/api/chat", json.dumps(body).encode())
text, last = "", {}
with urllib.request.urlopen(request, timeout=600) as answer:
    for line in answer:
        last = json.loads(line)
        text += last.get("message", {}).get("content", "")
        if "error" in last:
            raise SystemExit(last["error"])
print(text)
if not last.get("done") or not text.strip():
    raise SystemExit(f"the answer is not whole: {last}")
