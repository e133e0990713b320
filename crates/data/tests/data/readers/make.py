"""Makes the files of this folder with other software: pyarrow 26.0.1, warcio 1.8.1, Python's gzip, the zstd command."""
import gzip
import io
import subprocess

import pyarrow as pa
import pyarrow.parquet as pq

talk = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
columns = {
    "id": pa.array([f"doc-{i}" for i in range(20)]),
    "text": pa.array([f"Text number {i}, with Äpfel." if i != 7 else None for i in range(20)]),
    "n": pa.array(list(range(20)), pa.int64()),
    "score": pa.array([i / 4 for i in range(20)], pa.float32()),
    "day": pa.array(list(range(20)), pa.date32()),
    "meta": pa.array([{"lang": "en" if i % 3 else None, "tags": ["a", "b"][: i % 3]} for i in range(20)]),
    "messages": pa.array([[{"role": "user", "content": f"Q{i}"}, {"role": "assistant", "content": f"A{i}"}] for i in range(20)], talk),
}
table = pa.table(columns)
for name, settings in {
    "snappy": dict(compression="snappy"),
    "zstd-v2": dict(compression="zstd", data_page_version="2.0"),
    "gzip-delta": dict(compression="gzip", use_dictionary=False, column_encoding={"text": "DELTA_BYTE_ARRAY", "id": "DELTA_LENGTH_BYTE_ARRAY"}),
    "plain": dict(compression="none", use_dictionary=False),
}.items():
    pq.write_table(table, f"{name}.parquet", row_group_size=8, **settings)

# Row 2 is no UTF-8.
binary = pa.array([b"one", b"\xff\xfe", b"three"])
pq.write_table(pa.table({"text": pa.Array.from_buffers(pa.string(), 3, binary.buffers())}), "no-utf-8.parquet", compression="none")

lines = "".join(f'{{"text": "line {i}"}}\n' for i in range(6)).encode()
with open("members.jsonl.gz", "wb") as out:
    out.write(gzip.compress(lines[: len(lines) // 2], mtime=0) + gzip.compress(lines[len(lines) // 2 :], mtime=0))
with open("command.jsonl.zst", "wb") as out:
    out.write(subprocess.run(["zstd", "-c", "--long=27"], input=lines, stdout=subprocess.PIPE, check=True).stdout)

from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

paragraph = "<p>The fox ran over the hill, found its red hat, and took it home to its friends before the evening came.</p>"
page = f"<html><head><title>Page %d</title></head><body><nav><a href='/'>Home</a></nav><article>{paragraph * 5}</article></body></html>"


def warc(path, compressed):
    with open(path, "wb") as out:
        writer = WARCWriter(out, gzip=compressed)
        fixed = {"WARC-Date": "2026-01-02T03:04:05Z", "WARC-Record-ID": "<urn:uuid:00000000-0000-0000-0000-000000000001>"}

        def record(kind, url, body, content_type=None, http=None):
            body = io.BytesIO(body)
            writer.write_record(writer.create_warc_record(url, kind, payload=body, http_headers=http, warc_headers_dict=dict(fixed), warc_content_type=content_type or ""))

        def response(status, *headers):
            return StatusAndHeaders(status, list(headers), protocol="HTTP/1.1")

        html = ("Content-Type", "text/html; charset=UTF-8")
        record("response", "http://example.org/1", (page % 1).encode(), http=response("200 OK", html))
        record("response", "http://example.org/2", (page % 2).encode(), http=response("404 Not Found", html))
        packed = gzip.compress((page % 3).encode(), mtime=0)
        chunks = b"".join(b"%x\r\n%s\r\n" % (len(c), c) for c in (packed[:50], packed[50:], b""))
        coded = (("Content-Encoding", "gzip"), ("Transfer-Encoding", "chunked"))
        record("response", "http://example.org/3", chunks, http=response("200 OK", html, *coded))
        record("response", "http://example.org/4.png", b"\x89PNG", http=response("200 OK", ("Content-Type", "image/png")))
        record("conversion", "http://example.org/5", "Plain text, with Äpfel.\n".encode(), content_type="text/plain")


warc("pages.warc.gz", True)
warc("pages.warc", False)
