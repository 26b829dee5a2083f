"""Settings tables: documented ones, that of a real Codex CLI file, and invalid ones."""

from __future__ import annotations

from typing import Any

NONE_EXAMPLE = """\
[otel]
environment = "staging"   # defaults to "dev"
exporter = "none"          # defaults to "none"; set to otlp-http or otlp-grpc to send events
log_user_prompt = false    # defaults to false; redact prompt text unless explicitly enabled
"""

HTTP_EXAMPLE = """\
[otel]
exporter = { otlp-http = {
  endpoint = "https://otel.example.com/v1/logs",
  protocol = "binary",
  headers = { "x-otlp-api-key" = "${OTLP_TOKEN}" }
}}
"""

GRPC_EXAMPLE = """\
[otel]
exporter = { otlp-grpc = {
  endpoint = "https://otel.example.com:4317",
  headers = { "x-otlp-meta" = "abc123" }
}}
"""

REAL_CODEX_CONFIG = """\
model = "gpt-5-codex"
model_provider = "proxy"
approval_policy = "on-request"
sandbox_mode = "workspace-write"
notify = ["python3", "/home/me/notify.py"]
hide_agent_reasoning = true

[model_providers.proxy]
name = "Proxy"
base_url = "https://proxy.example.com/v1"
env_key = "PROXY_KEY"
http_headers = { "X-Team" = "agents" }

[profiles.fast]
model = "gpt-5"

[projects."/home/me/project"]
trust_level = "trusted"

[shell_environment_policy]
inherit = "core"
exclude = ["AWS_*"]

[sandbox_workspace_write]
network_access = true

[mcp_servers.docs]
command = "npx"
args = ["-y", "docs-mcp"]
env = { "TOKEN" = "${NOT_OURS}" }

[tui]
notifications = ["agent-turn-complete"]

[history]
persistence = "none"

[otel]
environment = "prod"
log_user_prompt = true
trace_exporter = { otlp-http = { endpoint = "https://traces.example.com", protocol = "json" } }
metrics_exporter = "statsig"
span_attributes = { "team" = "agents" }
tracestate = { "vendor" = { "k" = "v" } }
tool_result = { max_bytes = 4096 }

[otel.exporter.otlp-http]
endpoint = "https://otel.example.com/v1/logs"
protocol = "binary"

[otel.exporter.otlp-http.headers]
"x-otlp-api-key" = "${OTLP_TOKEN}"
"""


def http(**keys: Any) -> dict[str, Any]:
    return {"exporter": {"otlp-http": {"endpoint": "https://c.example.com/v1/logs", **keys}}}


def grpc(**keys: Any) -> dict[str, Any]:
    return {"exporter": {"otlp-grpc": {"endpoint": "https://c.example.com:4317", **keys}}}


BAD_TABLES: list[tuple[dict[Any, Any], str]] = [
    ({"exportr": "none"}, "exportr: unknown key; did you mean 'exporter'?"),
    (
        {"batch": {"zzz": 1}},
        "batch.zzz: unknown key; expected one of max_batch_size, max_queue_bytes, "
        "max_queue_size, max_request_bytes, retry_for_ms, schedule_delay_ms, "
        "shutdown_timeout_ms",
    ),
    (
        {"otel": {}},
        "otel: unknown key; pass the contents of the [otel] table",
    ),
    ({"environment": 1}, "environment: expected a string, got an integer"),
    ({"log_user_prompt": "yes"}, "log_user_prompt: expected true or false, got a string"),
    ({"log_tool_payloads": 1}, "log_tool_payloads: expected true or false, got an integer"),
    (
        {"max_attribute_length": True},
        "max_attribute_length: expected an integer, got a boolean",
    ),
    (
        {"max_attribute_length": -1},
        "max_attribute_length: expected an integer from 0 to 2147483647",
    ),
    ({"tool_result": 5}, "tool_result: expected a table, got an integer"),
    (
        {"tool_result": {"max_byte": 5}},
        "tool_result.max_byte: unknown key; did you mean 'max_bytes'?",
    ),
    (
        {"batch": {"max_batch_size": 0}},
        "batch.max_batch_size: expected an integer from 1 to 2147483647",
    ),
    (
        {"batch": {"max_queue_size": 0}},
        "batch.max_queue_size: expected an integer from 1 to 2147483647",
    ),
    (
        {"batch": {"schedule_delay_ms": 10**15}},
        "batch.schedule_delay_ms: expected an integer from 0 to 2147483647",
    ),
    (
        {"batch": {"retry_for_ms": -(10**5000)}},
        "batch.retry_for_ms: expected an integer from 0 to 2147483647",
    ),
    ({1: 2}, "1: keys must be strings"),
    (
        {"a\nb": 2},
        "'a\\nb': unknown key; expected one of batch, environment, exporter, "
        "log_agent_responses, log_guardian_assessments, log_sse_deltas, "
        "log_tool_payloads, log_user_prompt, max_attribute_length, metrics_exporter, "
        "resource_attributes, service_name, span_attributes, spool, tool_result, trace_exporter, "
        "tracestate",
    ),
    (
        {"batch": {"max_batch_size": 9, "max_queue_size": 8}},
        "batch: max_batch_size (9) must be at most max_queue_size (8)",
    ),
    (
        {"resource_attributes": {"service.name": "x"}},
        "resource_attributes.service.name: cannot be set here; set service_name instead",
    ),
    (
        {"resource_attributes": {"env": "x"}},
        "resource_attributes.env: cannot be set here; set environment instead",
    ),
    (
        {"resource_attributes": {"a": {}}},
        "resource_attributes.a: expected a string, a number, a boolean "
        "or an array of one of these, got a table",
    ),
    (
        {"resource_attributes": {"a": [1, "b"]}},
        "resource_attributes.a: expected a string, a number, a boolean "
        "or an array of one of these, got an array",
    ),
    (
        {"exporter": "otlp"},
        "exporter: expected one of 'none', 'otlp-http', 'otlp-grpc'; got 'otlp'; "
        "did you mean 'otlp-http'?",
    ),
    (
        {"exporter": "statsig"},
        "exporter: 'statsig' is available to the Codex CLI only; nothing is exported. "
        "Use 'otlp-http' or 'otlp-grpc'",
    ),
    ({"exporter": 5}, "exporter: expected a string, got an integer"),
    (
        {"exporter": "https://user:s3cr3t@collector/"},
        "exporter: expected one of 'none', 'otlp-http', 'otlp-grpc'",
    ),
    (
        {"exporter": {"none": {}}},
        "exporter: 'none' must not be a table; write exporter = \"none\"",
    ),
    (
        {"exporter": {}},
        "exporter: expected one table, otlp-http or otlp-grpc",
    ),
    (
        {"exporter": {"otlp-http": {}, "otlp-grpc": {}}},
        "exporter: expected one table, otlp-http or otlp-grpc",
    ),
    (
        {"exporter": {"otlp-http": "x"}},
        "exporter.otlp-http: expected a table, got a string",
    ),
    (
        {"exporter": {"otlp-http": {}}},
        "exporter.otlp-http.endpoint: missing; set the collector's address, "
        "such as 'http://localhost:4318/v1/logs'",
    ),
    (
        {"exporter": {"otlp-grpc": {}}},
        "exporter.otlp-grpc.endpoint: missing; set the collector's address, "
        "such as 'http://localhost:4317'",
    ),
    (
        http(endpoint="collector:4318"),
        "exporter.otlp-http.endpoint: must begin with https:// or http://",
    ),
    (http(endpoint="http://"), "exporter.otlp-http.endpoint: missing host"),
    (
        http(endpoint="http://localhost:/v1/logs"),
        "exporter.otlp-http.endpoint: missing port after the colon",
    ),
    (http(endpoint="http://[::1]:"), "exporter.otlp-http.endpoint: missing port after the colon"),
    (
        http(endpoint="http://c:1\\@d/"),
        "exporter.otlp-http.endpoint: must not contain a backslash",
    ),
    (
        http(endpoint="http://a..b/"),
        "exporter.otlp-http.endpoint: invalid host or port",
    ),
    (
        http(endpoint="http://a/#b"),
        "exporter.otlp-http.endpoint: must not have a fragment (#...)",
    ),
    (
        grpc(endpoint="c:4317/"),
        "exporter.otlp-grpc.endpoint: must not have a path; end the address after the port",
    ),
    (
        http(endpoint="http://c:99999"),
        "exporter.otlp-http.endpoint: invalid host or port",
    ),
    (
        http(endpoint="http://c/a b"),
        "exporter.otlp-http.endpoint: must not contain whitespace or control characters",
    ),
    (
        grpc(endpoint="ftp://c:1"),
        "exporter.otlp-grpc.endpoint: expected https://host:port, http://host:port or host:port",
    ),
    (
        grpc(endpoint="https://c:4317/v1/logs"),
        "exporter.otlp-grpc.endpoint: must not have a path; end the address after the port",
    ),
    (
        grpc(endpoint="https://u:p@c:4317"),
        "exporter.otlp-grpc.endpoint: must not contain a user or password; use headers",
    ),
    (
        grpc(protocol="binary"),
        "exporter.otlp-grpc.protocol: belongs in the exporter's table: "
        "exporter = { otlp-http = { ... } } (otlp-http only)",
    ),
    (
        http(protocol="xml"),
        "exporter.otlp-http.protocol: expected one of 'binary', 'json'",
    ),
    (
        http(compression="zip"),
        "exporter.otlp-http.compression: expected one of 'none', 'gzip'",
    ),
    (
        http(timeout_ms=0),
        "exporter.otlp-http.timeout_ms: expected an integer from 1 to 2147483647",
    ),
    (
        http(headers={"a b": "x"}),
        "exporter.otlp-http.headers.a...: invalid header name; use letters, digits and hyphens",
    ),
    (
        http(headers={"a!b c": "x"}),
        "exporter.otlp-http.headers.a!b...: invalid header name; use letters, digits and hyphens",
    ),
    (
        http(headers={"Content-Type": "x"}),
        "exporter.otlp-http.headers.Content-Type: reserved header; the exporter sets it",
    ),
    (
        http(headers={"X-A": "1", "x-a": "2"}),
        "exporter.otlp-http.headers.x-a: duplicate header; names are case-insensitive",
    ),
    (
        http(headers={"x-a": "1", "X-A": "2"}),
        "exporter.otlp-http.headers.X-A: duplicate header; names are case-insensitive",
    ),
    (
        grpc(headers={"x-a": "1", "X-A": "2"}),
        "exporter.otlp-grpc.headers.X-A: duplicate header; names are case-insensitive",
    ),
    (http(headers={None: "x"}), "exporter.otlp-http.headers.None: keys must be strings"),
    (
        http(headers={"x": 5}),
        "exporter.otlp-http.headers.x: expected a string, got an integer",
    ),
    (
        http(headers={"x": "secret\n"}),
        "exporter.otlp-http.headers.x: the value must not begin or end with whitespace",
    ),
    (
        http(headers={"x": "sec\nret"}),
        "exporter.otlp-http.headers.x: the value must not contain control characters",
    ),
    (
        http(headers={"x": "secret☕"}),
        "exporter.otlp-http.headers.x: the value must contain Latin-1 characters only",
    ),
    (
        grpc(headers={"x/y": "v"}),
        "exporter.otlp-grpc.headers.x...: "
        "invalid metadata key; use letters, digits, hyphens, dots and underscores",
    ),
    (
        grpc(headers={"x!y": "v"}),
        "exporter.otlp-grpc.headers.x...: "
        "invalid metadata key; use letters, digits, hyphens, dots and underscores",
    ),
    (
        grpc(headers={"grpc-x": "v"}),
        "exporter.otlp-grpc.headers.grpc-x: reserved metadata key; must not begin with grpc-",
    ),
    (
        grpc(headers={"x-bin": "v"}),
        "exporter.otlp-grpc.headers.x-bin: binary metadata (-bin) is not supported",
    ),
    (
        grpc(headers={"x": "é"}),
        "exporter.otlp-grpc.headers.x: the value must contain printable ASCII characters only",
    ),
    (
        http(endpoint="http://c/v1/logs", tls={}),
        "exporter.otlp-http.tls: requires an endpoint that begins with https://",
    ),
    (
        http(tls={"ca-cert": "x"}),
        "exporter.otlp-http.tls.ca-cert: unknown key; did you mean 'ca-certificate'?",
    ),
    (
        http(tls={"ca-certificate": "absent.pem"}),
        "exporter.otlp-http.tls.ca-certificate: the file cannot be read: No such file or directory",
    ),
    (
        http(tls={"ca-certificate": "a\0b"}),
        "exporter.otlp-http.tls.ca-certificate: invalid path",
    ),
    (
        http(tls={"ca-certificate": "~nobody-has-this-name/x"}),
        "exporter.otlp-http.tls.ca-certificate: unknown home directory; write the path without ~",
    ),
]
"""Invalid tables, each with the only fault that strict reading finds in it."""
