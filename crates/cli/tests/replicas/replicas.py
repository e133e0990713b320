#!/usr/bin/env python3
"""Two servers behind a cache-aware router, with one ledger in PostgreSQL: what each kill costs, in answers, in money and in cached prompts.

Usage: replicas.py FARTHING [--separate]

The same conversations are held with one server alone, then with two behind smg; the texts have to be the same. In the middle the busier server is killed (SIGKILL), then one that
computes prompts, then the router, then both servers. With --separate each server has a disk cache of its own, and cached prompts are shown but not required.
"""
import collections, concurrent.futures, contextlib, dataclasses, json, os, pathlib, re, shutil, signal, socket, subprocess, sys, tempfile, threading, time, urllib.request

import openai

ROOT = pathlib.Path(__file__).resolve().parents[4]
MODEL = ROOT / "models" / "seed-5.7m"
PEOPLE = ("anna", "ben", "carla")
CONVERSATIONS = 12
# Turns of each conversation: before the kill, the one in which it happens, after it, and after the router's restart.
BEFORE, KILLED, AFTER, RESTARTED = range(0, 3), 3, range(4, 6), 6
ANSWER_TOKENS, KILLED_TOKENS = 40, 240
# What a kill may leave uncharged of each stream: these tokens, or those of that time where they are more (docs/LEDGER.md).
UNCHARGED_TOKENS, UNCHARGED_S = 16, 0.1
# Cached prompt tokens with two servers, of those with one.
HITS_KEPT = 0.95
# For a condition that never comes; nothing is measured by it.
LIMIT_S = 240
# Units a million tokens are micro-units a token.
HIT, MISS, OUTPUT = 1, 2, 5
PRICES = f'currency = "EUR"\n[[models]]\nname = "*"\nhit = {HIT}\nmiss = {MISS}\noutput = {OUTPUT}\n'


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def until(what, condition):
    end = time.monotonic() + LIMIT_S
    while not (value := condition()):
        assert time.monotonic() < end, f"{what}: not within {LIMIT_S} s"
        time.sleep(0.02)
    return value


def get(url, key=None):
    """The body of a response with status 200, or None."""
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {key}"} if key else {})
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.read().decode()
    except OSError:
        return None


class Program:
    """A program with a log that is started, killed and started again."""

    def __init__(self, name, command, directory, environment):
        self.name, self.command, self.environment = name, command, environment
        self.log = directory / f"{name}.log"
        self.process = None

    def start(self):
        with open(self.log, "a") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log, env=self.environment)
        until(f"{self.name} is ready", lambda: self.alive() and self.ready())
        return self

    def alive(self):
        assert self.process.poll() is None, f"{self.name} ended with {self.process.poll()}:\n{self.log.read_text()[-3000:]}"
        return True

    def kill(self, by=signal.SIGKILL):
        if self.process:
            self.process.send_signal(by)
            self.process.wait()
            self.process = None


class Server(Program):
    def __init__(self, name, setting, disk, ledger=None, keys=(), model=(str(MODEL), "--context", "2048"), more=()):
        self.port, self.disk = free_port(), disk
        self.url = f"http://127.0.0.1:{self.port}"
        options = ["--port", str(self.port), "--disk-cache-dir", str(disk), "--open-metrics", *more]
        if ledger:
            options += ["--ledger", ledger, "--server-name", name, "--prices", str(setting.directory / "prices.toml"), "--open-models"]
        else:
            options += ["--ledger", "off"] + [part for key in keys for part in ("--api-key", key)]
        super().__init__(name, [setting.farthing, "serve", *model, *options], setting.directory, setting.environment)

    def ready(self):
        return get(f"{self.url}/ready")

    def knows_its_disk(self):
        """Whether it has seen all blocks that are on the disk: it looks every two seconds at what others wrote."""
        return self.metric("farthing_disk_cache_in_use") == 1 and self.metric("farthing_disk_cache_blocks") == sum(1 for _ in self.disk.glob("*/*.unit"))

    def metric(self, name):
        """The sum of a metric over its labels."""
        return sum(value for other, value in self.metrics() if other == name)

    def metrics(self):
        lines = (get(f"{self.url}/metrics") or "").splitlines()
        return [(line.split("{")[0].split(" ")[0], float(line.rsplit(" ", 1)[1])) for line in lines if not line.startswith("#")]


class Router(Program):
    """smg, by the command of docs/SCALE.md, with addresses and a key of its own."""

    def __init__(self, setting, servers):
        self.port, self.admin = free_port(), "operator-of-the-router"
        self.url = f"http://127.0.0.1:{self.port}"
        self.servers = servers
        words = re.search(r"^python (-m smg launch (?:.*\\\n)*.*)$", (ROOT / "docs/SCALE.md").read_text(), re.MULTILINE)[1].replace("\\\n", " ").split()
        urls = iter(server.url for server in servers)
        ports = {"--port": str(self.port), "--prometheus-port": str(free_port())}
        command = [next(urls) if word.startswith("http://") else ports.get(before, word.replace("$ROUTER_KEY", self.admin)) for before, word in zip([""] + words, words)]
        super().__init__("router", [sys.executable, *command], setting.directory, setting.environment)

    def workers(self):
        """The servers that requests are routed to."""
        answer = get(f"{self.url}/workers", self.admin)
        return [worker["url"] for worker in json.loads(answer)["workers"] if worker["status"] == "ready"] if answer else []

    def ready(self):
        return sorted(self.workers()) == sorted(server.url for server in self.servers)


@dataclasses.dataclass
class Answer:
    id: str
    key: str
    streamed: bool
    # What came, and when.
    text: str = ""
    tokens: list = dataclasses.field(default_factory=list)
    usage: object = None
    # Why it is not whole, as its client was told.
    error: str = ""
    # The server that it came from, and when that was killed.
    server: str = ""
    killed: float = 0.0

    def whole(self):
        return self.usage is not None and not self.error


class Client:
    """Who asks, by one address; each answer is kept."""

    def __init__(self, url, keys, place):
        self.clients = {name: openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=LIMIT_S) for name, key in keys.items()}
        self.place = place
        self.answers = []
        self.lock = threading.Lock()

    def ask(self, name, messages, tokens, stream):
        with self.lock:
            answer = Answer(f"{self.place}-{len(self.answers)}-", name, stream)
            self.answers.append(answer)
        request = {"model": MODEL.name, "messages": messages, "max_tokens": tokens, "temperature": 0, "logit_bias": {"1": -100}, "logprobs": True}
        request["extra_headers"] = {"x-request-id": answer.id}
        try:
            (self.streamed if stream else self.at_once)(answer, request)
        except openai.APIError as error:
            answer.error = f"{type(error).__name__}: {error}"
        except (OSError, openai.OpenAIError, RuntimeError) as error:
            answer.error = f"{type(error).__name__}: {error}"
        return answer

    def at_once(self, answer, request):
        response = self.clients[answer.key].chat.completions.with_raw_response.create(**request)
        answer.server = response.headers.get("x-smg-routed-worker-id", "")
        whole = response.parse()
        answer.text, answer.usage = whole.choices[0].message.content, whole.usage

    def streamed(self, answer, request):
        stream = self.clients[answer.key].chat.completions.create(**request, stream=True, stream_options={"include_usage": True})
        answer.server = stream.response.headers.get("x-smg-routed-worker-id", "")
        for chunk in stream:
            answer.usage = chunk.usage or answer.usage
            for choice in chunk.choices:
                answer.text += choice.delta.content or ""
                answer.tokens += [time.monotonic()] * len(choice.logprobs.content if choice.logprobs and choice.logprobs.content else [])
        assert answer.usage, f"{answer.id}: a stream that was cut looks whole"


def question(number, turn):
    """What is asked in a turn of a conversation: long enough to fill blocks of the cache, and no other conversation's."""
    friends = ", ".join(f"the {animal} number {number * 31 + turn * 7 + at} who lived by the river" for at, animal in enumerate(("cat", "fox", "owl", "bear", "hen", "cow", "dog")))
    return f"Story {number}, part {turn}. Tell me of {friends}, and of what they did that day."


def ways(number, turn):
    """How a conversation's question is asked: every other answer is streamed; in the turn of the kill half of the conversations ask both ways, and the others not at all."""
    if turn == KILLED:
        return (True, False) if number % 2 else ()
    return ((number + turn) % 2 == 0,)


def hold(client, histories, turn):
    """A turn of all conversations at once; the futures, with their conversations."""
    tokens = KILLED_TOKENS if turn == KILLED else ANSWER_TOKENS
    pool = concurrent.futures.ThreadPoolExecutor(2 * CONVERSATIONS)
    asked = []
    for number, history in enumerate(histories):
        if streams := ways(number, turn):
            history.append({"role": "user", "content": question(number, turn)})
            asked += [(number, pool.submit(client.ask, PEOPLE[number % 3], list(history), tokens, stream)) for stream in streams]
    pool.shutdown(wait=False)
    return asked


def settle(histories, asked, texts, turn):
    """The turn's answers go into the histories; cached and all prompt tokens of those that are whole."""
    cached = prompt = 0
    for number, future in asked:
        answer = future.result()
        wanted = texts.setdefault((number, turn), answer.text)
        assert answer.whole() or answer.streamed, f"{answer.id} was lost: {answer.error}"
        assert answer.text == wanted if answer.whole() else wanted.startswith(answer.text), f"{answer.id}:\n{answer.text}\n{wanted}"
        if answer.whole():
            cached += answer.usage.prompt_tokens_details.cached_tokens
            prompt += answer.usage.prompt_tokens
    for number in {number for number, _ in asked}:
        histories[number].append({"role": "assistant", "content": texts[number, turn]})
    return cached, prompt


class Setting:
    def __init__(self, farthing, ledger, directory):
        self.farthing, self.ledger, self.directory = farthing, ledger, directory
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("FARTHING_")}
        self.environment = inherited | {"XDG_STATE_HOME": str(directory), "XDG_CACHE_HOME": str(directory), "FARTHING_LEDGER": ledger, "RUST_BACKTRACE": "1"}
        (directory / "prices.toml").write_text(PRICES)

    def run(self, *args):
        done = subprocess.run([self.farthing, *args], env=self.environment, capture_output=True, text=True)
        assert done.returncode == 0, f"farthing {args}: {done.stdout}{done.stderr}"
        return done.stdout


def alone(setting, texts):
    """Cached and all prompt tokens of each turn with one server, whose answers all others are held against."""
    keys = {name: f"key-of-{name}" for name in PEOPLE}
    server = Server("alone", setting, setting.directory / "disk-alone", keys=keys.values()).start()
    client, histories, hits = Client(server.url, keys, "alone"), [[] for _ in range(CONVERSATIONS)], {}
    try:
        for turn in range(RESTARTED + 1):
            hits[turn] = settle(histories, hold(client, histories, turn), texts, turn)
    finally:
        server.kill()
    return hits


def share(hits, turns):
    """The share of prompt tokens that were found in a cache."""
    cached, prompt = (sum(hits[turn][which] for turn in turns) for which in (0, 1))
    return cached / prompt


class Replicas:
    """The servers, the router, and who asks through it."""

    def __init__(self, setting, separate):
        self.setting, self.separate = setting, separate
        keys = {name: setting.run("keys", "create", name, "--currency", "EUR", "--top-up", "100", "--quiet").strip() for name in PEOPLE}
        disk = lambda name: setting.directory / ("disk-" + name if separate else "disk")
        self.servers = [Server(name, setting, disk(name), setting.ledger) for name in ("one", "two")]
        self.router = Router(setting, self.servers)
        self.client = Client(self.router.url, keys, "routed")
        self.histories, self.hits = [[] for _ in range(CONVERSATIONS)], {}

    def start(self):
        for server in self.servers:
            server.start()
        self.router.start()

    def stop(self):
        """Ends all; the servers as they should be ended, so that the ledger has everything."""
        for server in self.servers:
            server.kill(signal.SIGTERM)
        self.router.kill()

    def busier(self):
        return max(self.servers, key=lambda server: server.metric("farthing_requests_running"))

    def kill(self, asked, *programs):
        """Kills programs while these are asked; their answers, with the time of the kill where it cut them or came right after them."""
        ended = [future.done() for future in asked]
        killed = time.monotonic()
        for program in programs:
            program.kill()
        answers = [future.result() for future in asked]
        for answer, ended in zip(answers, ended):
            answer.killed = killed if ended or not answer.whole() else 0.0
            assert answer.whole() or answer.error, f"{answer.id} was lost in silence"
        return answers

    def again(self, *servers):
        """Starts killed servers again, which settles in the ledger what they left, and waits until the router knows."""
        for server in servers:
            server.start()
        until("the router knows the servers", self.router.ready)

    def turn(self, turn, texts):
        until("the servers know what is on the disk", lambda: all(server.knows_its_disk() for server in self.servers if server.process))
        self.hits[turn] = settle(self.histories, hold(self.client, self.histories, turn), texts, turn)

    def killed_in_the_middle(self, texts):
        """Kills the busier server in the middle of all answers; the answers of that turn."""
        before = len(self.client.answers)
        asked = hold(self.client, self.histories, KILLED)
        streams = lambda: [answer for answer in self.client.answers[before:] if answer.streamed]
        until("all streams have begun", lambda: len(streams()) == CONVERSATIONS // 2 and all(len(answer.tokens) >= 20 for answer in streams()))
        victim = self.busier()
        assert victim.metric("farthing_requests_running") > 0, "all was answered before the kill"
        answers = self.kill([future for _, future in asked], victim)
        settle(self.histories, asked, texts, KILLED)
        return victim, answers

    def killed_in_prefill(self):
        """Kills the busier server while it computes prompts; the answers."""
        prompts = [" ".join(question(100 + number, part) for part in range(8)) for number in range(8)]
        pool = concurrent.futures.ThreadPoolExecutor(len(prompts))
        asked = [pool.submit(self.client.ask, PEOPLE[number % 3], [{"role": "user", "content": prompt}], 8, number % 4 < 2) for number, prompt in enumerate(prompts)]
        until("a server computes prompts", lambda: self.busier().metric("farthing_requests_running") >= 2 or all(one.done() for one in asked))
        victim = self.busier()
        answers = self.kill(asked, victim)
        for answer in answers:
            assert answer.whole() or answer.streamed, f"{answer.id} was lost: {answer.error}"
        self.again(victim)
        return answers

    def begin(self, streams, others):
        """Streams that have begun, and answers that are waited for."""
        before = len(self.client.answers)
        pool = concurrent.futures.ThreadPoolExecutor(streams + others)
        ask = lambda number: self.client.ask(PEOPLE[number % 3], [{"role": "user", "content": question(200 + number, before)}], 1500, number < streams)
        asked = [pool.submit(ask, number) for number in range(streams + others)]
        until("streams have begun", lambda: sum(len(answer.tokens) > 0 for answer in self.client.answers[before:]) == streams)
        return asked

    def router_killed(self):
        answers = self.kill(self.begin(4, 0), self.router)
        self.router.start()
        # Servers notice that the router is gone when they write.
        until("the servers are idle", lambda: not any(server.metric("farthing_requests_running") for server in self.servers))
        return answers

    def both_killed(self):
        answers = self.kill(self.begin(4, 4), *self.servers)
        ask = lambda: self.client.ask("anna", [{"role": "user", "content": "Is anybody there?"}], 4, False)
        until("a request without a server is a 503", lambda: "503" in ask().error)
        self.again(*self.servers)
        until("requests are answered again", lambda: ask().whole())
        return answers


class Books:
    """The ledger's rows, by what clients call their requests."""

    def __init__(self, setting):
        setting.run("ledger", "check")
        self.rows = collections.defaultdict(list)
        for row in json.loads(setting.run("usage", "--requests", "--most", "100000", "--json"))["requests"]:
            assert row["cost"] == row["hit"] * HIT + row["miss"] * MISS + row["output"] * OUTPUT, row
            self.rows[row["request"].rpartition("-")[0] + "-"].append(row)
        usage = json.loads(setting.run("usage", "--by", "key", "--json"))
        self.sums = {row["name"]: row for row in usage["rows"]}

    def compare(self, answers, by_router):
        """Holds each answer against its rows, and the sums of each key against its answers; the tokens that were not charged, in all and of one answer at most.
        Of `by_router`, which a kill of the router cut, what the router had taken is charged: more may be than came.
        """
        uncharged, sums, most = 0, collections.Counter(), 0
        for answer in answers:
            rows = self.rows.pop(answer.id, [])
            charged = [row for row in rows if row["cost"]]
            assert all(row["key_name"] == answer.key for row in rows) and len(charged) <= 1, f"{answer} is charged twice: {rows}"
            sums.update({(answer.key, field): row[field] for row in charged for field in ("hit", "miss", "output", "cost")})
            usage, row, output = answer.usage, charged[0] if charged else None, sum(row["output"] for row in charged)
            exact = answer.whole() and row and row["cost"] == round(usage.cost * 1e6) and (
                (row["hit"], row["hit"] + row["miss"], output) == (usage.prompt_tokens_details.cached_tokens, usage.prompt_tokens, usage.completion_tokens))
            if answer.whole() and not answer.killed:
                assert exact, f"{answer}: {rows}"
            elif not answer.streamed:
                # One that came whole a moment before the kill may be a gift; what came of no use costs nothing.
                assert exact or not charged, f"{answer}: {rows}"
            elif answer not in by_router:
                assert output <= len(answer.tokens), f"{answer}: {len(answer.tokens)} tokens came, {output} are charged: {rows}"
                left = answer.tokens[output:]
                old = sum(answer.killed - at > UNCHARGED_S for at in left)
                assert len(left) <= UNCHARGED_TOKENS or not old, f"{answer}: {len(left)} tokens were not charged, {old} of them old: {rows}"
                uncharged, most = uncharged + len(left), max(most, len(left))
        assert not self.rows, f"nobody asked for these: {dict(self.rows)}"
        for (name, field), wanted in sums.items():
            assert self.sums[name][field] == wanted, f"{name}: {field} is {self.sums[name][field]}, and {wanted} of its requests"
        return uncharged, most


def play(setting, separate):
    texts = {}
    lone = alone(setting, texts)
    replicas = Replicas(setting, separate)
    try:
        replicas.start()
        for turn in BEFORE:
            replicas.turn(turn, texts)
        served = [sum(answer.server == server.url for answer in replicas.client.answers) for server in replicas.servers]
        assert all(served), f"one server did all: {served}"
        picked = set(re.findall(r'Spec: "([^"]+)"', (ROOT / "packaging/kubernetes/inference-pool.yaml").read_text()))
        known = {name for name, _ in replicas.servers[0].metrics()}
        assert picked and picked <= known, f"metrics of inference-pool.yaml that no server has: {picked - known}"
        victim, cut = replicas.killed_in_the_middle(texts)
        streams = [answer for answer in cut if not answer.whole()]
        assert streams, "no stream was cut"
        for turn in AFTER:
            replicas.turn(turn, texts)
        replicas.again(victim)
        prefill = replicas.killed_in_prefill()
        by_router = replicas.router_killed()
        replicas.turn(RESTARTED, texts)
        both = replicas.both_killed()
    except BaseException:
        for program in (*replicas.servers, replicas.router):
            program.kill()
            print(f"-- {program.name}\n{program.log.read_text()[-2000:] if program.log.exists() else ''}", file=sys.stderr)
        raise
    finally:
        replicas.stop()
    books = Books(setting)
    retried = [answer for answer in replicas.client.answers if answer.whole() and len(books.rows[answer.id]) > 1]
    assert any(answer in cut for answer in retried), "no answer was tried again"
    uncharged, most = books.compare(replicas.client.answers, by_router)
    shares = {name: (share(lone, turns), share(replicas.hits, turns)) for name, turns in (("before", BEFORE), ("after", AFTER), ("router again", [RESTARTED]))}
    for name, (one, two) in shares.items():
        assert two >= HITS_KEPT * one or (separate and name != "before"), f"cached prompts {name}: {two:.3f} with two servers, {one:.3f} with one"
    whole = sum(answer.whole() for answer in replicas.client.answers)
    print(f"replicas: {served[0]} and {served[1]} requests before the kill; {whole} whole answers, {len(retried)} of them tried again, none charged twice; "
          f"{sum(not answer.whole() for answer in cut + prefill)} streams cut by a server's kill, {sum(not answer.whole() for answer in by_router)} by the router's, "
          f"{sum(not answer.whole() for answer in both)} answers by both servers'; {uncharged} tokens received and not charged, {most} of one answer at most; "
          f"cached prompt tokens with one server and two: " + ", ".join(f"{name} {one:.1%} {two:.1%}" for name, (one, two) in shares.items()))


@contextlib.contextmanager
def postgres():
    """The address of an empty database; None without PostgreSQL, unless FARTHING_POSTGRES is `required`."""
    process = subprocess.Popen(["sh", ROOT / "crates/ledger/tests/books/postgres.sh"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    address = process.stdout.readline().strip()
    if not address.startswith("postgres://") and os.environ.get("FARTHING_POSTGRES") == "required":
        sys.exit("replicas: PostgreSQL is not there")
    try:
        yield f"{address}/postgres" if address.startswith("postgres://") else None
    finally:
        process.stdin.close()
        process.wait()


def main():
    with postgres() as address:
        if not address:
            print("SKIPPED two servers behind a router: PostgreSQL is not there", file=sys.stderr)
            return
        directory = pathlib.Path(tempfile.mkdtemp(prefix="farthing-replicas-"))
        play(Setting(os.path.abspath(sys.argv[1]), address, directory), "--separate" in sys.argv)
        shutil.rmtree(directory)


if __name__ == "__main__":
    main()
