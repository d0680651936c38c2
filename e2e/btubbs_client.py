"""A client for the tests: PyPI's sseclient, which reconnects by itself. Prints what it yields as eventsource.mjs does.

usage: btubbs_client.py STREAM_URL CA_FILE
"""
import json
import sys

import sseclient

for event in sseclient.SSEClient(sys.argv[1], verify=sys.argv[2]):
    print(json.dumps({"stream": 0, "kind": event.event, "data": event.data, "id": event.id}), flush=True)
