"""A store PC for the tests: runs the client and prints what it is given, a JSON text a line.

usage: store_pc.py BASE_URL STORE PC HEARTBEAT_SECONDS
"""

import json
import os
import sys

import store_client
from store_client import SSEEventClient


def show(kind):
    return lambda data: print(json.dumps([kind, data]), flush=True)


base, store, pc, seconds = sys.argv[1:]
headers = {"Authorization": "Bearer " + os.environ.get("STORE_TOKEN", "the-old-token")}
if "STORE_ACCEPT" in os.environ:
    headers["Accept"] = os.environ["STORE_ACCEPT"]
if "STORE_ASKS" in os.environ:  # print each request, too
    get = store_client.requests.get

    def asks(*args, **more):
        print(json.dumps(["asks", ""]), flush=True)
        return get(*args, **more)

    store_client.requests.get = asks
client = SSEEventClient(
    base + "/v1/stores/event-sources", store, pc, headers, base + "/v1/health", float(seconds)
)
client.on("sse", show("sse"))
client.on("heartbeat", show("heartbeat"))
client.on("message", show("message"))
client.start()
