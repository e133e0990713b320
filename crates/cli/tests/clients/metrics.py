"""The metrics of a running server, read by Prometheus' own strict parser of OpenMetrics.

Usage: metrics.py BASE_URL, after some requests.
"""

import sys
import urllib.request

from prometheus_client.openmetrics.parser import text_string_to_metric_families

with urllib.request.urlopen(sys.argv[1].removesuffix("/v1") + "/metrics", timeout=30) as answer:
    assert answer.headers["Content-Type"].startswith("application/openmetrics-text"), answer.headers
    families = {f.name: f for f in text_string_to_metric_families(answer.read().decode())}


def total(name, sample):
    found = [s.value for s in families[name].samples if s.name == sample]
    assert found, f"{name} has no {sample}"
    return sum(found)


assert families["farthing_requests"].type == "counter", families["farthing_requests"]
assert families["farthing_time_to_first_token_seconds"].type == "histogram"
assert total("farthing_requests", "farthing_requests_total") > 10
assert total("farthing_generation_tokens", "farthing_generation_tokens_total") > 10
count = total("farthing_time_to_first_token_seconds", "farthing_time_to_first_token_seconds_count")
assert 0 < count <= total("farthing_request_seconds", "farthing_request_seconds_count")
assert total("farthing_kv_cache_pages", "farthing_kv_cache_pages") > 0
assert total("farthing_cache_pages", "farthing_cache_pages") > 0, "the old name, for one release"
for name in ["num_requests_running", "num_requests_waiting", "kv_cache_usage_perc", "gpu_cache_usage_perc"]:
    assert families[f"vllm:{name}"].type == "gauge" and families[f"vllm:{name}"].samples, name
print("metrics: ok")
