"""The class that store PCs run today, unchanged: no try/except, no position, starts over at once when the stream ends."""

import json
import threading
import time

import requests
import sseclient


class SSEEventClient:
    def __init__(self, url, storeId, pcId, headers, heartbeat_url, heartbeat_seconds=240):
        self.url = url
        self.storeId = storeId
        self.pcId = pcId
        self.headers = headers
        self.heartbeat_url = heartbeat_url
        self.heartbeat_seconds = heartbeat_seconds
        self.handlers = {}

    def on(self, event, handler):
        self.handlers[event] = handler

    def _heartbeat(self):
        while True:
            time.sleep(self.heartbeat_seconds)
            requests.get(self.heartbeat_url, headers=self.headers, params={"storeId": self.storeId, "pcId": self.pcId})

    def start(self):
        threading.Thread(target=self._heartbeat, daemon=True).start()
        while True:
            response = requests.get(
                self.url, headers=self.headers, params={"storeId": self.storeId, "pcId": self.pcId}, stream=True
            )
            client = sseclient.SSEClient(response)
            for event in client.events():
                handler = self.handlers.get(event.event or "message")
                if handler:
                    try:
                        data = json.loads(event.data)
                    except ValueError:
                        data = event.data
                    handler(data)
