"""Calls a module's functions as check.py asks for them: a line of JSON in, a line of JSON out."""

import asyncio
import importlib
import inspect
import json
import sys

module = importlib.import_module(sys.argv[1])
loop = asyncio.new_event_loop() if hasattr(module, "open_pool") else None


def run(answer):
    return loop.run_until_complete(answer) if inspect.isawaitable(answer) else answer


if loop:
    run(module.open_pool())
elif hasattr(module, "pool"):
    module.pool.open(wait=True)
for line in sys.stdin:
    name, arguments = json.loads(line)
    answer = run(getattr(module, name)(*arguments))
    print(json.dumps(answer if isinstance(answer, str) else list(answer)), flush=True)
