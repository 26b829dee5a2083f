"""Tables of settings: documented ones, those of a real file, and bad ones."""

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
        "batch.zzz: unknown key; known are max_batch_size, max_queue_bytes, "
        "max_queue_size, max_request_bytes, retry_for_ms, schedule_delay_ms, "
        "shutdown_timeout_ms",
    ),
    (
        {"otel": {}},
        "otel: unknown key; pass the table's contents, not what is around it",
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
    ({1: 2}, "1: a key is text"),
    (
        {"a\nb": 2},
        "'a\\nb': unknown key; known are batch, environment, exporter, "
        "log_agent_responses, log_guardian_assessments, log_sse_deltas, "
        "log_tool_payloads, log_user_prompt, max_attribute_length, metrics_exporter, "
        "resource_attributes, service_name, span_attributes, tool_result, trace_exporter, "
        "tracestate",
    ),
    (
        {"batch": {"max_batch_size": 9, "max_queue_size": 8}},
        "batch: max_batch_size (9) is more than max_queue_size (8); a batch comes out of the queue",
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
        "or an array of one of them, got a table",
    ),
    (
        {"resource_attributes": {"a": [1, "b"]}},
        "resource_attributes.a: expected a string, a number, a boolean "
        "or an array of one of them, got an array",
    ),
    (
        {"exporter": "otlp"},
        "exporter: expected one of 'none', 'otlp-http', 'otlp-grpc'; got 'otlp'; "
        "did you mean 'otlp-http'?",
    ),
    (
        {"exporter": "statsig"},
        "exporter: 'statsig' is the Codex CLI's own service, which takes no events from "
        "here; nothing is sent. Use 'otlp-http' or 'otlp-grpc'",
    ),
    ({"exporter": 5}, "exporter: expected a string, got an integer"),
    (
        {"exporter": "https://user:s3cr3t@collector/"},
        "exporter: expected one of 'none', 'otlp-http', 'otlp-grpc'",
    ),
    (
        {"exporter": {"none": {}}},
        "exporter: 'none' has no table; write exporter = \"none\"",
    ),
    (
        {"exporter": {}},
        "exporter: expected one exporter in the table: otlp-http or otlp-grpc",
    ),
    (
        {"exporter": {"otlp-http": {}, "otlp-grpc": {}}},
        "exporter: expected one exporter in the table: otlp-http or otlp-grpc",
    ),
    (
        {"exporter": {"otlp-http": "x"}},
        "exporter.otlp-http: expected a table, got a string",
    ),
    (
        {"exporter": {"otlp-http": {}}},
        "exporter.otlp-http.endpoint: missing; give the collector's address, "
        "such as 'https://localhost:4318/v1/logs'",
    ),
    (
        {"exporter": {"otlp-grpc": {}}},
        "exporter.otlp-grpc.endpoint: missing; give the collector's address, "
        "such as 'https://localhost:4317'",
    ),
    (
        http(endpoint="collector:4318"),
        "exporter.otlp-http.endpoint: expected an address that begins with https:// or http://",
    ),
    (http(endpoint="http://"), "exporter.otlp-http.endpoint: the address has no host"),
    (
        http(endpoint="http://c:1\\@d/"),
        "exporter.otlp-http.endpoint: the address has a backslash in it",
    ),
    (
        http(endpoint="http://a..b/"),
        "exporter.otlp-http.endpoint: not an address: the host or the port cannot be read",
    ),
    (
        http(endpoint="http://a/#b"),
        "exporter.otlp-http.endpoint: the address has a fragment (#...), which is never sent",
    ),
    (
        grpc(endpoint="c:4317/"),
        "exporter.otlp-grpc.endpoint: a gRPC address has no path; end it after the port",
    ),
    (
        http(endpoint="http://c:99999"),
        "exporter.otlp-http.endpoint: not an address: the host or the port cannot be read",
    ),
    (
        http(endpoint="http://c/a b"),
        "exporter.otlp-http.endpoint: the address has a blank or a control character in it",
    ),
    (
        grpc(endpoint="ftp://c:1"),
        "exporter.otlp-grpc.endpoint: expected https://host:port, http://host:port or host:port",
    ),
    (
        grpc(endpoint="https://c:4317/v1/logs"),
        "exporter.otlp-grpc.endpoint: a gRPC address has no path; end it after the port",
    ),
    (
        grpc(endpoint="https://u:p@c:4317"),
        "exporter.otlp-grpc.endpoint: a gRPC address has no user or password; use headers",
    ),
    (
        grpc(protocol="binary"),
        "exporter.otlp-grpc.protocol: belongs into the exporter's table: "
        "exporter = { otlp-http = { ... } } (only otlp-http has it)",
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
        "exporter.otlp-http.headers.a b: not a header name; use letters, digits and hyphens",
    ),
    (
        http(headers={"Content-Type": "x"}),
        "exporter.otlp-http.headers.Content-Type: "
        "this header is the exporter's own; protocol and compression set it",
    ),
    (
        http(headers={"X-A": "1", "x-a": "2"}),
        "exporter.otlp-http.headers.x-a: "
        "this header is there twice; upper and lower case are the same",
    ),
    (
        http(headers={"x-a": "1", "X-A": "2"}),
        "exporter.otlp-http.headers.X-A: "
        "this header is there twice; upper and lower case are the same",
    ),
    (
        grpc(headers={"x-a": "1", "X-A": "2"}),
        "exporter.otlp-grpc.headers.X-A: "
        "this header is there twice; upper and lower case are the same",
    ),
    (http(headers={None: "x"}), "exporter.otlp-http.headers.None: a key is text"),
    (
        http(headers={"x": 5}),
        "exporter.otlp-http.headers.x: expected a string, got an integer",
    ),
    (
        http(headers={"x": "secret\n"}),
        "exporter.otlp-http.headers.x: the value begins or ends with a blank or a line break",
    ),
    (
        http(headers={"x": "sec\nret"}),
        "exporter.otlp-http.headers.x: the value has a control character in it",
    ),
    (
        http(headers={"x": "secret☕"}),
        "exporter.otlp-http.headers.x: the value has a character that an HTTP header "
        "cannot carry (outside Latin-1)",
    ),
    (
        grpc(headers={"x/y": "v"}),
        "exporter.otlp-grpc.headers.x/y: "
        "not a metadata key; use letters, digits, hyphens, dots and underscores",
    ),
    (
        grpc(headers={"grpc-x": "v"}),
        "exporter.otlp-grpc.headers.grpc-x: keys that begin with grpc- belong to gRPC itself",
    ),
    (
        grpc(headers={"x-bin": "v"}),
        "exporter.otlp-grpc.headers.x-bin: binary metadata (-bin) cannot be written here",
    ),
    (
        grpc(headers={"x": "é"}),
        "exporter.otlp-grpc.headers.x: the value has a character that gRPC metadata "
        "cannot carry (outside printable ASCII)",
    ),
    (
        http(endpoint="http://c/v1/logs", tls={}),
        "exporter.otlp-http.tls: the endpoint is plaintext; begin it with https:// to use TLS",
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
        "exporter.otlp-http.tls.ca-certificate: not the path of a file",
    ),
    (
        http(tls={"ca-certificate": "~nobody-has-this-name/x"}),
        "exporter.otlp-http.tls.ca-certificate: "
        "its home directory is not known; write the path without ~",
    ),
]
"""Tables, and the one fault that strict reading finds in each."""
