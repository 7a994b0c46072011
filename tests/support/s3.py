"""An S3 server on this machine, by moto, that can be told to refuse."""

import threading
from contextlib import contextmanager

import boto3
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

BUCKET = "objects"


class Refusing:
    """A server's application that refuses what it is told to, so many times."""

    def __init__(self, application):
        self.application, self.words, self.times, self.puts = application, "", 0, []

    def __call__(self, environ, start_response):
        path, method = environ["PATH_INFO"], environ["REQUEST_METHOD"]
        if method in ("PUT", "POST"):
            self.puts.append(path)
            if self.times and self.words in path:
                self.times -= 1
                start_response("403 Forbidden", [("Content-Type", "application/xml")])
                return [b"<Error><Code>AccessDenied</Code><Message>not now</Message></Error>"]
        return self.application(environ, start_response)


@contextmanager
def s3_server(monkeypatch):
    """The server's application, and the URL of a bucket; this process and those that it starts use it."""
    application = Refusing(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, application, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    for name, value in {
        "AWS_ENDPOINT_URL": address,
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    boto3.client("s3", endpoint_url=address, region_name="us-east-1").create_bucket(Bucket=BUCKET)
    try:
        yield application, f"s3://{BUCKET}/batch"
    finally:
        server.shutdown()
        thread.join()
