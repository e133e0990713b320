#!/usr/bin/env python3
"""What the router costs: its processor time for a request and for a streamed event, and the time that it adds to a request. Usage: cost.py FARTHING [REQUESTS]

Requests come one at a time, in turn through the router and past it, to the same server. Times of a busy machine say little; processor time says what it did.
"""
import os, pathlib, shutil, statistics, sys, tempfile, time

from replicas import MODEL, Replicas, Setting, postgres

IDLE_S = 10


def cpu_seconds(program):
    """Processor time of a process so far, of all its threads."""
    fields = pathlib.Path(f"/proc/{program.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def seconds(client, tokens, stream):
    """How long a request takes, and its streamed events."""
    extra = {"stream_options": {"include_usage": True}} if stream else {}
    begin, events = time.perf_counter(), 0
    answer = client.chat.completions.create(model=MODEL.name, messages=[{"role": "user", "content": "Tell me a story."}], max_tokens=tokens, temperature=0,
                                            logit_bias={"1": -100}, stream=stream, **extra)
    if stream:
        events = sum(1 for _ in answer)
    return time.perf_counter() - begin, events


def main():
    requests = int(sys.argv[2]) if len(sys.argv) > 2 else 400
    directory = pathlib.Path(tempfile.mkdtemp(prefix="farthing-cost-"))
    with postgres() as address:
        replicas = Replicas(Setting(os.path.abspath(sys.argv[1]), address, directory), False)
        try:
            replicas.start()
            before = cpu_seconds(replicas.router)
            time.sleep(IDLE_S)
            print(f"idle: {(cpu_seconds(replicas.router) - before) / IDLE_S * 1000:.1f} ms of the router's processor time a second")
            through = replicas.client.clients["anna"]
            past = through.with_options(base_url=f"{replicas.servers[0].url}/v1")
            for tokens, stream in ((1, False), (200, True)):
                count = requests if not stream else requests // 10
                before, times, events = cpu_seconds(replicas.router), {"through": [], "past": []}, 0
                for _ in range(count):
                    taken, came = seconds(through, tokens, stream)
                    times["through"].append(taken)
                    events += came
                used = cpu_seconds(replicas.router) - before
                times["past"] = [seconds(past, tokens, stream)[0] for _ in range(count)]
                medians = {name: statistics.median(taken) * 1000 for name, taken in times.items()}
                print(f"{count} requests, {tokens} tokens each{', streamed' if stream else ''}: {used / count * 1000:.2f} ms of the router's processor time a request"
                      + (f", {used / events * 1e6:.0f} us an event" if events else "") + f"; median {medians['through']:.1f} ms through the router, {medians['past']:.1f} ms past it")
        finally:
            replicas.stop()
    shutil.rmtree(directory)


if __name__ == "__main__":
    main()
