"""Reads as sseclient-py does, where PyPI cannot be reached: 128 bytes at a time, blocks split at blank lines."""


class Event:
    def __init__(self):
        self.id = None
        self.event = "message"
        self.data = ""


class SSEClient:
    def __init__(self, source, char_enc="utf-8"):
        self._source = source
        self._char_enc = char_enc

    def _blocks(self):
        block = b""
        for chunk in self._source:  # Response.__iter__ is iter_content(128)
            for line in chunk.splitlines(True):
                block += line
                if block.endswith((b"\r\r", b"\n\n", b"\r\n\r\n")):
                    yield block
                    block = b""
        if block:
            yield block

    def events(self):
        for block in self._blocks():
            event = Event()
            for line in block.splitlines():
                line = line.decode(self._char_enc)
                if not line.strip() or line.startswith(":"):
                    continue
                name, _, value = line.partition(":")
                if value.startswith(" "):
                    value = value[1:]
                if name == "data":
                    event.data += value + "\n"
                elif name in ("id", "event"):
                    setattr(event, name, value)
            if not event.data:
                continue
            if event.data.endswith("\n"):
                event.data = event.data[:-1]
            event.event = event.event or "message"
            yield event
