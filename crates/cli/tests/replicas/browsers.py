#!/usr/bin/env python3
"""People in browsers who talk through nginx and the router, while the busier of two servers is killed. Usage: browsers.py FARTHING CHROMIUM PAGE

PAGE is a directory with the programs of the page's tests (crates/cli/tests/page/install). What the pages received is held against the ledger as in replicas.py. Pictures are left
in PAGE/screenshots, or in FARTHING_PICTURES.
"""
import json, os, pathlib, shutil, signal, subprocess, sys, tempfile, time, types

from replicas import MODEL, ROOT, Answer, Books, Program, Router, Server, Setting, free_port, get, postgres, until


class Nginx(Program):
    """nginx with packaging/nginx.conf, at addresses of the test."""

    def __init__(self, setting, router, servers):
        self.port = free_port()
        self.url = f"http://localhost:{self.port}"
        site = (ROOT / "packaging/nginx.conf").read_text()
        ours = {"listen 80;": f"listen 127.0.0.1:{self.port};", "127.0.0.1:8080": f"127.0.0.1:{router.port}"} | {
            f"127.0.0.1:{port}": f"127.0.0.1:{server.port}" for port, server in zip((8081, 8082), servers)}
        for theirs, address in ours.items():
            assert site.count(theirs) == 1, f"{theirs} in packaging/nginx.conf"
            site = site.replace(theirs, address)
        directory = setting.directory / "nginx"
        directory.mkdir()
        (directory / "site.conf").write_text(site)
        # One process, without the paths of a service.
        main = f"daemon off; master_process off; pid {directory}/pid; error_log stderr warn;\nevents {{}}\nhttp {{\n    access_log off;\n"
        paths = "".join(f"    {kind}_temp_path {directory}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        (directory / "nginx.conf").write_text(f"{main}{paths}    include site.conf;\n}}\n")
        command = ["nginx", "-p", str(directory), "-c", "nginx.conf", "-e", "stderr"]
        checked = subprocess.run([*command, "-t"], capture_output=True, text=True)
        assert checked.returncode == 0, f"packaging/nginx.conf:\n{checked.stderr}"
        super().__init__("nginx", command, setting.directory, setting.environment)

    def ready(self):
        return get(f"{self.url}/health")


def answers_of(lines):
    """What the browsers received, from the line of JSON that ends what they print."""
    found = []
    for line in lines:
        one = json.loads(line, object_hook=lambda fields: types.SimpleNamespace(**fields))
        found += [Answer(id=a.id, key=a.key, streamed=True, tokens=a.tokens, usage=a.usage, error=a.error, server=a.server) for a in one]
    return found


def talk(setting, farthing, chromium, page, nginx, servers):
    """Lets the browsers talk and kills the busier server in the middle; the answers, and the server."""
    admin = setting.run("keys", "create", "operator", "--admin", "--currency", "EUR", "--quiet").strip()
    code = setting.run("invitations", "create", "class", "--uses", "12", "--grant", "5", "--quiet").strip()
    command = ["node", str(page / "routed.mjs"), farthing, chromium, str(MODEL), nginx.url, f"{nginx.url}/#/invite/{code}", admin]
    browsers = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
    try:
        line = browsers.stdout.readline()
        assert line == "talking\n", f"the browsers said {line!r}"
        victim = max(servers, key=lambda server: server.metric("farthing_requests_running"))
        assert victim.metric("farthing_requests_running") > 0, "all was answered before the kill"
        killed = time.time()
        victim.kill()
        browsers.stdin.write("killed\n")
        browsers.stdin.close()
        *said, last = browsers.stdout.read().splitlines() or [""]
        print(*said, sep="\n")
        assert browsers.wait() == 0, "the browsers failed"
    finally:
        browsers.kill()
    answers = answers_of([last])
    for answer in answers:
        answer.killed = killed if not answer.whole() else 0.0
    return answers, victim


def play(setting, farthing, chromium, page):
    disk = setting.directory / "disk"
    servers = [Server(name, setting, disk, setting.ledger, model=(), more=("--trusted-proxy", "127.0.0.1")) for name in ("one", "two")]
    router = Router(setting, servers)
    nginx = Nginx(setting, router, servers)
    try:
        for program in (*servers, router, nginx):
            program.start()
        answers, victim = talk(setting, farthing, chromium, page, nginx, servers)
        victim.start()
        # Whichever server is gone, what does not go through the router is answered by the other.
        servers[0].kill()
        assert get(f"{nginx.url}/health"), "nothing answers without the first server"
        servers[0].start()
    except BaseException:
        for program in (*servers, router, nginx):
            program.kill()
            print(f"-- {program.name}\n{program.log.read_text()[-2000:] if program.log.exists() else ''}", file=sys.stderr)
        raise
    finally:
        for server in servers:
            server.kill(signal.SIGTERM)
        router.kill()
        nginx.kill()
    uncharged, most = Books(setting).compare(answers, [])
    whole = sum(answer.whole() for answer in answers)
    used = {answer.server for answer in answers}
    assert len(used) == 2, f"one server did all: {used}"
    print(f"browsers behind the router: {whole} whole answers and {len(answers) - whole} cut ones; {uncharged} tokens received and not charged, {most} of one answer at most")


def main():
    farthing, chromium, page = (os.path.abspath(argument) for argument in sys.argv[1:])
    with postgres() as address:
        if not address:
            print("SKIPPED people in browsers behind a router: PostgreSQL is not there", file=sys.stderr)
            return
        directory = pathlib.Path(tempfile.mkdtemp(prefix="farthing-browsers-"))
        play(Setting(farthing, address, directory), farthing, chromium, pathlib.Path(page))
        shutil.rmtree(directory)


if __name__ == "__main__":
    main()
