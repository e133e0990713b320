#!/usr/bin/env python3
"""Load on a server, with nothing but Python's own library.

  load.py storm BINARY [--minutes 10] [--streams 64]     right answers under rude clients and kill -9
  load.py rate URL [URL ...] [--streams 16]              total tokens/s and time per token, servers by turns
  load.py ledger BINARY [--ledger ADDRESS]               what a ledger adds to a request, two servers by turns

storm starts BINARY on its bundled model, asks for some texts one by one, and then for the same ones from many clients at once, among
cancellations, malformed bodies, slow clients and restarts by kill -9: every text must be the one that came alone, or a beginning of it
where the client left or the server was killed. rate takes any server with /v1/completions. ledger starts BINARY on its bundled model twice, with a key in a file and with
a ledger (a new file of SQLite, or ADDRESS), and asks both the same thing by turns.
"""
import argparse, asyncio, collections, http.client, json, os, random, shutil, signal, socket, statistics, subprocess, sys, tempfile, threading, time

WORDS = "the old woman had a red coat and one day her dog ran into the forest where it met bear who was very kind to small birds".split()


def text(random, words):
    return " ".join(random.choice(WORDS) for _ in range(words))


class Gone(Exception):
    """The connection ended before the answer did; what had come of it."""


async def send(host, port, method, path, body):
    reader, writer = await asyncio.open_connection(host, port, limit=1 << 22)
    head = f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    writer.write(head.encode() + body)
    await writer.drain()
    line = await reader.readline()
    if not line:
        raise Gone("")
    status = int(line.split()[1])
    headers = {}
    while (line := await reader.readline()) not in (b"\r\n", b""):
        name, _, value = line.decode().partition(":")
        headers[name.lower()] = value.strip()
    return reader, writer, status, headers


async def pieces(reader, headers):
    """Bytes of a body as they come."""
    if headers.get("transfer-encoding") == "chunked":
        while True:
            size = await reader.readline()
            if not size:
                raise Gone("")
            size = int(size, 16)
            data = await reader.readexactly(size + 2)
            if size == 0:
                return
            yield data[:-2]
    elif "content-length" in headers:
        yield await reader.readexactly(int(headers["content-length"]))
    else:
        while data := await reader.read(1 << 16):
            yield data


async def events(reader, headers):
    """Objects of a stream; comments are left out."""
    rest = b""
    async for piece in pieces(reader, headers):
        rest += piece
        *whole, rest = rest.replace(b"\r\n", b"\n").split(b"\n\n")
        for event in whole:
            for line in event.split(b"\n"):
                if line.startswith(b"data: "):
                    data = line[6:]
                    if data == b"[DONE]":
                        return
                    yield json.loads(data)
    raise Gone("")


def address(url):
    host, _, port = url.split("//")[-1].rstrip("/").partition(":")
    return host, int(port or 80)


async def complete(where, request, leave_after=None):
    """Text, times of its pieces, usage. Leaves early when told to."""
    body = json.dumps({**request, "stream": True, "stream_options": {"include_usage": True}}).encode()
    reader, writer, status, headers = await send(*where, "POST", "/v1/completions", body)
    got, times, usage = [], [], None
    try:
        if status != 200:
            raise ValueError(f"{status}: {(await reader.read(500)).decode()}")
        async for event in events(reader, headers):
            if "error" in event:
                raise ValueError(str(event["error"]))
            usage = event.get("usage") or usage
            for choice in event["choices"]:
                # A token whose text is held back is a token all the same.
                got.append(choice["text"])
                times.append(time.monotonic())
            if leave_after is not None and len(got) > leave_after:
                return "".join(got), times, None
        return "".join(got), times, usage
    except (Gone, asyncio.IncompleteReadError, ConnectionError) as error:
        raise Gone("".join(got)) from error
    finally:
        writer.close()


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Server:
    def __init__(self, binary, cache):
        self.binary, self.cache, self.port, self.process = binary, cache, free_port(), None

    async def start(self):
        log = open(os.path.join(self.cache, "server.log"), "ab")
        self.process = await asyncio.create_subprocess_exec(
            self.binary, "serve", "--port", str(self.port), "--parallel", "24", "--queue", "200", "--patience", "5", "--quiet",
            "--disk-cache", "64M", "--disk-cache-dir", os.path.join(self.cache, "units"), stdout=log, stderr=log)
        await ready(self.port)

    async def kill(self):
        self.process.send_signal(signal.SIGKILL)
        await self.process.wait()


MALFORMED = [
    b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"prompt": 5}', b'{"prompt": "a", "max_tokens": -1}', b'{"prompt": ["a", 3]}',
    b'{"messages": []}', b'{"prompt": "a", "stop": [1]}', b'{"prompt": "' + b"a" * 2_000_000 + b'"}', b'{"prompt": "a", "logit_bias": {"x": 1}}',
    b'{"prompt": "a", "temperature": 1e999}', b'{"a":' * 5000, b'{"prompt": "a", "n": 1000000}',
]


async def storm(args):
    cache = tempfile.mkdtemp(prefix="farthing-storm-")
    server = Server(args.binary, cache)
    await server.start()
    where = ("127.0.0.1", server.port)
    r = random.Random(args.seed)
    beginnings = [text(r, 60), text(r, 150), ""]
    requests = []
    for i in range(40):
        prompt = r.choice(beginnings) + " " + text(r, r.randrange(1, 60))
        requests.append({"prompt": prompt, "max_tokens": r.choice([1, 5, 20, 60, 150]), "seed": i, "temperature": r.choice([0, 0.8, 1.2])})
    expected = [(await complete(where, request))[0] for request in requests]
    print(f"{len(requests)} texts of {sum(map(len, expected))} characters; now {args.streams} clients for {args.minutes} minutes", flush=True)

    seen = collections.Counter()
    first, per_token, tokens = [], [], 0
    end = time.monotonic() + 60 * args.minutes
    up = asyncio.Event()
    up.set()

    def wrong(kind, i, got):
        print(f"WRONG {kind}: request {i} {requests[i]}\n  alone: {expected[i]!r}\n  now:   {got!r}", flush=True)
        seen["wrong"] += 1

    async def client(number):
        nonlocal tokens
        mine = random.Random(args.seed * 1000 + number)
        while time.monotonic() < end:
            await up.wait()
            i = mine.randrange(len(requests))
            leaves = mine.choice([None, None, None, mine.randrange(0, 30)])
            started = time.monotonic()
            try:
                got, times, usage = await asyncio.wait_for(complete(where, requests[i], leaves), 300)
            except Gone as cut:
                # Only a server that was killed may cut a stream.
                seen["cut by a kill" if not up.is_set() or server.killed_since(started) else "lost"] += 1
                if not expected[i].startswith(str(cut)):
                    wrong("beginning", i, str(cut))
                await asyncio.sleep(0.1)
                continue
            except ValueError as refused:
                seen["refused (429)" if str(refused).startswith("429") else f"refused: {str(refused)[:80]}"] += 1
                await asyncio.sleep(0.2)
                continue
            except OSError:
                seen["no connection"] += 1
                await asyncio.sleep(0.1)
                continue
            except asyncio.TimeoutError:
                seen["stuck"] += 1
                continue
            if leaves is not None and usage is None:
                seen["left"] += 1
                if not expected[i].startswith(got):
                    wrong("beginning", i, got)
                continue
            seen["whole"] += 1
            if got != expected[i]:
                wrong("text", i, got)
            first.append(times[0] - started)
            tokens += usage["completion_tokens"]
            per_token.extend(b - a for a, b in zip(times, times[1:]))

    async def malformed():
        mine = random.Random(args.seed + 1)
        while time.monotonic() < end:
            await up.wait()
            try:
                path = mine.choice(["/v1/completions", "/v1/chat/completions", "/v1/messages", "/v1/responses", "/tokenize", "/nowhere"])
                reader, writer, status, headers = await asyncio.wait_for(send(*where, "POST", path, mine.choice(MALFORMED)), 30)
                writer.close()
                # Some of these bodies are all that /tokenize asks for.
                fine = 400 <= status < 500 or (status == 200 and path == "/tokenize")
                seen["malformed, refused" if fine else f"malformed, {status}"] += 1
            except (OSError, Gone, asyncio.TimeoutError):
                seen["malformed, no answer"] += 1
            await asyncio.sleep(0.05)

    async def slow():
        """A head that comes a byte at a time; a body that never ends; an answer that is never read."""
        mine = random.Random(args.seed + 2)
        while time.monotonic() < end:
            await up.wait()
            try:
                reader, writer = await asyncio.open_connection(*where)
                kind = mine.randrange(3)
                if kind == 0:
                    for byte in b"POST /v1/completions HTTP/1.1\r\n":
                        writer.write(bytes([byte]))
                        await writer.drain()
                        await asyncio.sleep(0.3)
                elif kind == 1:
                    writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{")
                    await writer.drain()
                    await asyncio.wait_for(reader.read(1), 60)
                else:
                    body = json.dumps({"prompt": "a", "max_tokens": 100, "stream": True}).encode()
                    writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
                    await writer.drain()
                    await asyncio.sleep(10)
                seen["slow clients"] += 1
                writer.close()
            except (OSError, asyncio.TimeoutError):
                seen["slow clients, turned away"] += 1

    kills = []
    server.killed_since = lambda since: any(at >= since for at in kills)

    async def killer():
        mine = random.Random(args.seed + 3)
        while True:
            await asyncio.sleep(mine.uniform(0.5, 1.5) * 60 * args.minutes / (args.kills + 1))
            if time.monotonic() > end - 5 or len(kills) >= args.kills:
                return
            up.clear()
            kills.append(time.monotonic())
            await server.kill()
            await server.start()
            seen["kill -9, started again"] += 1
            up.set()

    await asyncio.gather(*[client(i) for i in range(args.streams)], malformed(), malformed(), slow(), slow(), slow(), killer())
    # All is quiet: nothing runs, nothing waits, every page can be taken.
    for _ in range(100):
        reader, writer, status, headers = await send(*where, "GET", "/metrics", b"")
        metrics = b"".join([piece async for piece in pieces(reader, headers)]).decode()
        writer.close()
        values = dict(line.rsplit(" ", 1) for line in metrics.splitlines() if line and not line.startswith("#"))
        busy = {k: v for k, v in values.items() if k.startswith(("vllm:num_requests_running", "vllm:num_requests_waiting")) and float(v)}
        if not busy:
            break
        await asyncio.sleep(0.1)
    server.process.send_signal(signal.SIGTERM)
    code = await asyncio.wait_for(server.process.wait(), 30)
    for kind, count in sorted(seen.items()):
        print(f"{count:8} {kind}")
    print(f"{tokens / (60 * args.minutes):.0f} tokens/s in whole answers; first token {percentiles(first)}; between pieces {percentiles(per_token)}")
    bad = [kind for kind in seen if kind in ("wrong", "lost", "stuck") or kind.startswith(("malformed, 5", "malformed, 2", "refused: "))]
    if busy:
        bad.append(f"busy at the end: {busy}")
    if code != 0:
        bad.append(f"exit code {code}")
    shutil.rmtree(cache) if not bad else print(f"the log is in {cache}")
    print("FAILED: " + ", ".join(bad) if bad else "passed")
    sys.exit(bool(bad))


def percentiles(seconds):
    if len(seconds) < 2:
        return "-"
    cuts = statistics.quantiles(seconds, n=100)
    return ", ".join(f"p{p} {cuts[p - 1] * 1000:.0f} ms" for p in (50, 90, 99))


async def rate(args):
    """Streams that each ask again and again; long prompts come in between. One server after the other, several rounds."""
    results = {url: [] for url in args.urls}
    for round in range(args.rounds):
        for url in args.urls:
            r = random.Random(args.seed + round)
            where = address(url)
            end = time.monotonic() + args.seconds
            tokens, gaps, firsts, longs = 0, [], [], []
            begun = time.monotonic()

            async def stream(number):
                nonlocal tokens
                mine = random.Random(args.seed * 100 + round * 10 + number)
                while time.monotonic() < end:
                    prompt = args.salt + text(mine, args.words)
                    request = {"prompt": prompt, "max_tokens": args.tokens, "temperature": 0, "seed": 1, "ignore_eos": True, "model": args.model, **json.loads(args.extra)}
                    started = time.monotonic()
                    _, times, usage = await complete(where, request)
                    firsts.append(times[0] - started)
                    gaps.extend((b - a) for a, b in zip(times, times[1:]))
                    tokens += usage["completion_tokens"] if usage else len(times)

            async def long_prompts():
                mine = random.Random(args.seed + 7 + round)
                while args.long and time.monotonic() < end:
                    await asyncio.sleep(args.every)
                    started = time.monotonic()
                    request = {"prompt": args.salt + text(mine, args.long), "max_tokens": 1, "temperature": 0, "model": args.model}
                    _, times, _ = await complete(where, request)
                    longs.append(times[0] - started)

            await asyncio.gather(*[stream(i) for i in range(args.streams)], long_prompts())
            took = time.monotonic() - begun
            results[url].append((tokens / took, gaps, firsts, longs))
            print(f"{url} round {round + 1}: {tokens / took:.2f} tokens/s; between tokens {percentiles(gaps)}; first token {percentiles(firsts)}; "
                  f"{len(longs)} long prompts {percentiles(longs)}", flush=True)
    for url, rounds in results.items():
        gaps = [gap for _, gaps, _, _ in rounds for gap in gaps]
        print(f"{url}: median {statistics.median(r[0] for r in rounds):.2f} tokens/s; between tokens {percentiles(gaps)}")


def ask(connection, key):
    """Seconds of one request for one token, its prompt in the cache."""
    body = json.dumps({"prompt": "Once upon a time", "max_tokens": 1, "temperature": 0})
    started = time.perf_counter()
    connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json", "Authorization": f"Bearer {key}"})
    answer = connection.getresponse()
    text = answer.read()
    seconds = time.perf_counter() - started
    if answer.status != 200:
        sys.exit(f"{answer.status}: {text.decode()}")
    return seconds


async def ledger(args):
    """The same request to a server with a ledger and to one without, by turns, from one client and from several."""
    directory = tempfile.mkdtemp(prefix="farthing-ledger-")
    address = args.ledger or os.path.join(directory, "ledger.db")
    create = [args.binary, "keys", "create", f"load-{os.getpid()}", "--top-up", "1000", "--ledger", address, "--quiet"]
    key = subprocess.run(create, check=True, capture_output=True, text=True).stdout.strip()
    sheet = os.path.join(directory, "prices.toml")
    for path, text in (("key", key + "\n"), ("prices.toml", 'currency = "USD"\n[[models]]\nname = "*"\nhit = 1\nmiss = 2\noutput = 5\n')):
        with open(os.path.join(directory, path), "w") as file:
            file.write(text)
    kinds = {"without": ["--ledger", "off", "--api-key-file", os.path.join(directory, "key")], "with": ["--ledger", address, "--prices", sheet]}
    servers, ports = [], {}
    try:
        for kind, options in kinds.items():
            ports[kind] = free_port()
            command = [args.binary, "serve", "--port", str(ports[kind]), "--disk-cache", "off", "--quiet", *options]
            servers.append(subprocess.Popen(command, stderr=subprocess.DEVNULL))
        for port in ports.values():
            await ready(port)
        for clients in args.clients:
            seconds = {kind: [] for kind in kinds}

            def client():
                connections = {kind: http.client.HTTPConnection("127.0.0.1", port) for kind, port in ports.items()}
                for number in range(args.requests // clients + 20):
                    for kind, connection in connections.items():
                        took = ask(connection, key)
                        # The first ones warm up.
                        if number >= 20:
                            seconds[kind].append(took)

            threads = [threading.Thread(target=client) for _ in range(clients)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            cuts = {kind: statistics.quantiles(times, n=100) for kind, times in seconds.items()}
            added = ", ".join(f"p{p} {(cuts['with'][p - 1] - cuts['without'][p - 1]) * 1000:+.2f} ms" for p in (50, 90, 99))
            each = "; ".join(f"{kind} p50 {cut[49] * 1000:.2f} ms, p99 {cut[98] * 1000:.2f}" for kind, cut in cuts.items())
            print(f"{clients} at once, {len(seconds['with'])} requests each: the ledger adds {added} ({each})", flush=True)
    finally:
        for server in servers:
            server.kill()
        shutil.rmtree(directory)


async def ready(port):
    for _ in range(600):
        try:
            _, writer, status, _ = await send("127.0.0.1", port, "GET", "/ready", b"")
            writer.close()
            if status == 200:
                return
        except (OSError, Gone):
            pass
        await asyncio.sleep(0.05)
    sys.exit("the server does not become ready")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    which = parser.add_subparsers(dest="which", required=True)
    s = which.add_parser("storm")
    s.add_argument("binary")
    s.add_argument("--minutes", type=float, default=10)
    s.add_argument("--streams", type=int, default=64)
    s.add_argument("--kills", type=int, default=5)
    r = which.add_parser("rate")
    r.add_argument("urls", nargs="+")
    r.add_argument("--streams", type=int, default=16)
    r.add_argument("--seconds", type=float, default=120)
    r.add_argument("--rounds", type=int, default=2)
    r.add_argument("--words", type=int, default=60, help="words of a prompt")
    r.add_argument("--tokens", type=int, default=64, help="tokens of an answer")
    r.add_argument("--long", type=int, default=0, help="words of the long prompts that come in between (0 = none)")
    r.add_argument("--every", type=float, default=10, help="seconds between them")
    r.add_argument("--model", default="model")
    r.add_argument("--salt", default="")
    r.add_argument("--extra", default="{}", help="further fields of every request, JSON")
    l = which.add_parser("ledger")
    l.add_argument("binary")
    l.add_argument("--ledger", help="an empty database, postgres://..., instead of a new file")
    l.add_argument("--requests", type=int, default=3000)
    l.add_argument("--clients", type=int, nargs="+", default=[1, 8], help="at once")
    args = parser.parse_args()
    asyncio.run({"storm": storm, "rate": rate, "ledger": ledger}[args.which](args))


if __name__ == "__main__":
    main()
