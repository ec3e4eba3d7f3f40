"""An OpenAI-compatible server and a web page to chat with a model.

- app.py: routes, limits, the server's start and end.
- access.py: where it listens, and which Host and Origin it answers.
- protocol.py: OpenAI's JSON to requests for the engine, and back.
- errors.py: errors in OpenAI's form.
- engine_thread.py: the one thread that computes.
- page/: the web page.

No part of a request names a file; no file is read or written after the start.
"""

import importlib.util

from pygpt.utils.errors import InputError


def check_packages() -> None:
    """Raise InputError, with what installs them, where a package of the server is absent."""
    absent = [name for name in ("starlette", "uvicorn") if not importlib.util.find_spec(name)]
    if absent:
        raise InputError(
            f'--serve needs {" and ".join(absent)}: pip install "pygpt-trainer[serve]"'
        )
