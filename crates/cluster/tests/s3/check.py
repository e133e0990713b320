"""Sources and shared directories in S3: the binary against moto's server, through a proxy that makes faults. Usage: check.py FARTHING"""

import http.client
import json
import logging
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import boto3
import zstandard
from moto.server import ThreadedMotoServer

FARTHING = sys.argv[1]
READERS = pathlib.Path(__file__).resolve().parents[3] / "data/tests/data/readers"
SECRET = "the-secret-that-no-message-may-hold"


class Proxy(BaseHTTPRequestHandler):
    """Hands requests on. `fault(handler, body)` may answer itself, or return a number of bytes after which the answer breaks off."""

    protocol_version = "HTTP/1.1"
    upstream = None
    fault = None
    requests = []

    def log_message(self, *_):
        pass

    def hand_on(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        type(self).requests.append(f"{self.command} {self.path}")
        cut = type(self).fault(self) if type(self).fault else None
        if cut == "answered":
            return
        connection = http.client.HTTPConnection(*self.upstream)
        connection.request(self.command, self.path, body, dict(self.headers))
        answer = connection.getresponse()
        content = answer.read()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                self.send_header(name, value)
        length = answer.getheader("Content-Length") if self.command == "HEAD" else len(content)
        self.send_header("Content-Length", length or 0)
        self.end_headers()
        if cut is not None and len(content) > cut:
            self.wfile.write(content[:cut])
            self.wfile.flush()
            self.close_connection = True
            self.connection.shutdown(2)
            return
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = hand_on

    def refuse(self, status, code):
        content = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>no</Message></Error>".encode()
        self.send_response(status)
        self.send_header("Content-Length", len(content))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
        return "answered"


def start():
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    Proxy.upstream = server.get_host_and_port()
    proxy = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    # Processes that are killed leave their connections.
    proxy.handle_error = lambda *_: None
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    host, port = Proxy.upstream
    s3 = boto3.client("s3", endpoint_url=f"http://{host}:{port}", region_name="us-east-1", aws_access_key_id="key", aws_secret_access_key=SECRET)
    return proxy, s3


def environment(proxy):
    clean = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    aws = {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{proxy.server_port}",
        "AWS_ALLOW_HTTP": "true",
    }
    return clean | aws


def farthing(work, env, *arguments):
    run = subprocess.run([FARTHING, "data", *arguments, "--threads", "1"], cwd=work, env=env, capture_output=True, text=True, timeout=300)
    assert SECRET not in run.stdout + run.stderr
    return run


def refused(work, env, *arguments):
    run = farthing(work, env, *arguments)
    assert run.returncode == 1, (run.returncode, run.stderr)
    assert "panicked" not in run.stderr, run.stderr
    return run.stderr


def corpus(folder):
    """Files of every format: those of the readers' tests, and lines over several blocks of an object."""
    folder.mkdir()
    for file in READERS.iterdir():
        if file.suffix != ".py" and "no-utf-8" not in file.name:
            shutil.copy(file, folder)
    draw = random.Random(1)
    words = [f"{draw.randrange(10**6):x}" for _ in range(5000)]
    texts = [" ".join(draw.choices(words, k=draw.randrange(20, 400))) for _ in range(9000)]
    texts += texts[:500]
    (folder / "long.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    assert (folder / "long.jsonl").stat().st_size > 9 << 20


RECIPE = """
name = "stored"
seed = 5
held_out = 0.05

[[sources]]
name = "long"
files = ["{0}/long.jsonl"]

[[sources]]
name = "compressed"
files = ["{0}/*.jsonl.{{gz,zst}}"]

[[sources]]
name = "columns"
files = ["{0}/*.parquet"]
text = "text"

[[sources]]
name = "pages"
files = ["{0}/pages.*"]

[[steps]]
step = "exact_dedup"

[[steps]]
step = "gopher_repetition"

[tokenizer]
vocabulary_size = 400

[shards]
shard_tokens = 500000
"""


def texts(documents):
    found = []
    for file in sorted(documents.iterdir()):
        with file.open("rb") as compressed:
            lines = zstandard.ZstdDecompressor().stream_reader(compressed, read_across_frames=True).read().decode().splitlines()
        found += [json.loads(line)["text"] for line in lines]
    return found


def files(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def objects(s3, prefix):
    found = {}
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket="corpus", Prefix=prefix):
        for entry in page.get("Contents", []):
            found[entry["Key"].removeprefix(prefix)] = s3.get_object(Bucket="corpus", Key=entry["Key"])["Body"].read()
    return found


def same(one, other):
    assert one.keys() == other.keys(), sorted(one.keys() ^ other.keys())
    assert all(one[name] == other[name] for name in one), [name for name in one if one[name] != other[name]]


def once(condition, then):
    """A fault that is made the first time."""
    made = []

    def fault(request):
        if not made and condition(request):
            made.append(request.path)
            return then(request)
        return None

    return fault, made


def sources(work, env, s3):
    run = farthing(work, env, "local.toml", "--out", "local")
    assert run.returncode == 0, run.stderr
    run = farthing(work, env, "s3.toml", "--out", "one")
    assert run.returncode == 0, run.stderr
    local = texts(work / "local/documents")
    stored = texts(work / "one/documents")
    assert len(local) > 8000 and stored == local, (len(local), len(stored))
    print(f"sources: {len(local)} documents of every format, the same from S3")

    whole = files(work / "one")
    fault, cuts = once(lambda r: r.command == "GET" and "long.jsonl" in r.path and "Range" in r.headers, lambda _: 1 << 20)
    Proxy.fault = fault
    run = farthing(work, env, "s3.toml", "--out", "cut")
    assert run.returncode == 0 and cuts, run.stderr
    same(whole, files(work / "cut"))
    refusals = []

    def busy(request):
        if len(refusals) < 5 and request.command == "GET":
            refusals.append(request.path)
            return request.refuse(503, "SlowDown")
        return None

    Proxy.fault = busy
    run = farthing(work, env, "s3.toml", "--out", "busy")
    assert run.returncode == 0 and len(refusals) == 5, run.stderr
    same(whole, files(work / "busy"))
    Proxy.fault = None
    print("faults: an answer that broke off and five of 503 change no byte")
    return whole


def ranks(work, env, s3, whole):
    def rank(number):
        folder = work / f"machine {number}"
        folder.mkdir(exist_ok=True)
        command = [FARTHING, "data", "../s3.toml", "--out", "s3://corpus/a/run", "--rank", str(number), "--world", "2", "--threads", "1"]
        return subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    kills = 0
    for marker in ["work/1-", "decisions/", "tokenizer/", ".tokens", "shards-", "report.html"]:
        # Both are killed when the first object of a phase is put.
        fault, seen = once(lambda r: r.command in ("PUT", "POST") and marker in r.path, lambda r: time.sleep(0.3))
        Proxy.fault = fault
        running = [rank(0), rank(1)]
        while not seen and any(run.poll() is None for run in running):
            time.sleep(0.02)
        assert seen, (marker, [run.stdout.read().decode() for run in running])
        for run in running:
            run.send_signal(signal.SIGKILL)
            run.wait()
            kills += 1
        assert "dataset.json" not in objects(s3, "a/run/")
    Proxy.fault = None
    shutil.rmtree(work / "machine 1")
    running = [rank(0), rank(1)]
    for run in running:
        output, _ = run.communicate(timeout=300)
        assert run.returncode == 0, output.decode()
        assert SECRET not in output.decode()
    same(whole, objects(s3, "a/run/"))
    print(f"ranks: two processes with directories of their own, killed {kills} times, one lost its disk: the bytes of one machine")
    again = farthing(work, env, "s3.toml", "--out", "s3://corpus/a/run", "--json")
    assert json.loads(again.stdout) == json.loads(whole["report.json"]), again.stderr


def errors(work, env, s3):
    missing = (work / "s3.toml").read_text().replace("s3://corpus/", "s3://nowhere/")
    (work / "missing.toml").write_text(missing)
    told = refused(work, env, "missing.toml")
    assert 's3://nowhere/' in told and "no bucket" in told or "no such file" in told, told
    (work / "glob.toml").write_text('name = "g"\n[[sources]]\nname = "g"\nfiles = ["s3://nowhere/in/*.jsonl"]\n')
    told = refused(work, env, "glob.toml")
    assert 'there is no bucket "nowhere"' in told, told

    without = {name: value for name, value in env.items() if "KEY" not in name}
    told = refused(work, without, "s3.toml", "--out", "without")
    assert "no credentials: set AWS_ACCESS_KEY_ID" in told, told
    Proxy.fault = lambda request: request.refuse(403, "SignatureDoesNotMatch")
    told = refused(work, env, "glob.toml", "--out", "wrong")
    assert "s3://nowhere/in/*.jsonl: the store refuses (SignatureDoesNotMatch); check AWS_ACCESS_KEY_ID" in told, told
    Proxy.fault = None

    # An object that is changed between two of its blocks.
    def change(request):
        content = s3.get_object(Bucket="corpus", Key="in/long.jsonl")["Body"].read()
        s3.put_object(Bucket="corpus", Key="in/long.jsonl", Body=content + b"\n")

    second = lambda r: r.command == "GET" and "long.jsonl" in r.path and r.headers.get("Range", "").startswith("bytes=4194304-")
    Proxy.fault, made = once(second, change)
    told = refused(work, env, "s3.toml", "--out", "changed")
    assert made and "s3://corpus/in/long.jsonl: it was changed while it was read" in told, told
    Proxy.fault, made = once(second, lambda _: s3.delete_object(Bucket="corpus", Key="in/long.jsonl") and None)
    told = refused(work, env, "s3.toml", "--out", "gone")
    assert made and "s3://corpus/in/long.jsonl: there is no such object, or no longer" in told, told
    Proxy.fault = None

    # Names that are no paths.
    for name in ["hostile/a//b.jsonl", "hostile/\u0001.jsonl"]:
        s3.put_object(Bucket="corpus", Key=name, Body=b'{"text": "x"}\n')
        (work / "hostile.toml").write_text('name = "h"\n[[sources]]\nname = "h"\nfiles = ["s3://corpus/hostile/**/*.jsonl"]\n')
        told = refused(work, env, "hostile.toml")
        assert "rename the object" in told and "\u0001" not in told, told
        s3.delete_object(Bucket="corpus", Key=name)
    print("errors: no bucket, no credentials, wrong ones, an object that was changed or is gone, names that are no paths")


def main():
    proxy, s3 = start()
    env = environment(proxy)
    with tempfile.TemporaryDirectory() as folder:
        work = pathlib.Path(folder)
        corpus(work / "in")
        (work / "local.toml").write_text(RECIPE.format("in"))
        (work / "s3.toml").write_text(RECIPE.format("s3://corpus/in"))
        s3.create_bucket(Bucket="corpus")
        for file in (work / "in").iterdir():
            s3.upload_file(str(file), "corpus", f"in/{file.name}")
        whole = sources(work, env, s3)
        ranks(work, env, s3, whole)
        errors(work, env, s3)


main()
# Threads of the server do not end by themselves.
os._exit(0)
