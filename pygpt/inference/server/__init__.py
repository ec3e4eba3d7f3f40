"""An OpenAI-compatible server and a web page to chat with a model.

- app.py: routes, limits, the server's start and end.
- access.py: where it listens, and which Host and Origin it answers.
- protocol.py: OpenAI's JSON to requests for the engine, and back.
- errors.py: errors in OpenAI's form.
- engine_thread.py: the one thread that computes.
- page/: the web page.

No part of a request names a file; no file is read or written after the start.
"""
