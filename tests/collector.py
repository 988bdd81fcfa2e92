"""A receiver of OTLP over HTTP, which can misbehave."""

import threading
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

PATIENCE = 60.0


class Received:
    """A span as it came."""

    def __init__(self, span, resource):
        self.name = span.name
        self.kind = span.kind
        self.trace_id, self.span_id = span.trace_id.hex(), span.span_id.hex()
        self.parent_id = span.parent_span_id.hex()
        self.state = span.trace_state
        self.start, self.end = span.start_time_unix_nano, span.end_time_unix_nano
        self.said = attributes(span.attributes)
        self.failed = span.status.code == 2
        self.links = [
            (link.trace_id.hex(), link.span_id.hex(), attributes(link.attributes)) for link in span.links
        ]
        self.resource = resource

    def __repr__(self):
        return f"<{self.name} {self.said}>"


def attributes(pairs):
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}


class Collector:
    """``how``: ``takes`` spans, ``stalls`` until it is closed, ``refuses`` (400), or sends ``nonsense`` or no end."""

    def __init__(self, how="takes"):
        self.how = how
        self.requests = []  # path and header fields
        self.spans = []
        self._changed = threading.Condition()
        self._over = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self):
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def wait(self, condition):
        """Until what has come so far satisfies it."""
        with self._changed:
            assert self._changed.wait_for(lambda: condition(self), PATIENCE), self.spans
            return list(self.spans)

    def wait_spans(self, count):
        return self.wait(lambda here: len(here.spans) >= count)

    def traces(self):
        found = defaultdict(list)
        for span in self.spans:
            found[span.trace_id].append(span)
        return found

    def _handler(self):
        collector = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                collector._came(self.path, dict(self.headers), body)
                if collector.how == "stalls":
                    collector._over.wait(PATIENCE)
                    self.close_connection = True
                elif collector.how == "nonsense":
                    self.wfile.write(b"\x00\x01 what?\r\n\r\n")
                    self.close_connection = True
                elif collector.how == "endless":
                    self.send_response(200)
                    self.end_headers()
                    try:
                        while not collector._over.is_set():
                            self.wfile.write(b"x" * 1_000)
                    except OSError:
                        pass
                    self.close_connection = True
                else:
                    self.send_response(200 if collector.how == "takes" else 400)
                    self.send_header("content-length", "0")
                    self.end_headers()

            def log_message(self, *_):
                pass

        return Handler

    def _came(self, path, headers, body):
        with self._changed:
            self.requests.append((path, headers))
            if self.how == "takes":
                for resource_spans in ExportTraceServiceRequest.FromString(body).resource_spans:
                    resource = attributes(resource_spans.resource.attributes)
                    for scope in resource_spans.scope_spans:
                        self.spans += [Received(span, resource) for span in scope.spans]
            self._changed.notify_all()
