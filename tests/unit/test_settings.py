import math
import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import AliasChoices

from app.api.origins import Origins
from app.core.limits import InputLimits
from app.prepare import served
from app.settings.environment import BadSetting
from app.settings.server import CONFIG_VARIABLE, Settings, read_settings
from app.settings.values import Address, read_address

SET: dict[str, tuple[str, Any]] = {
    "host": ("0.0.0.0:8080", Address(host="0.0.0.0", port=8080)),
    "peers": ("http://a:11434, https://b", ["http://a:11434", "https://b"]),
    "peer_pools": ("http://a:11434, https://b", ["http://a:11434", "https://b"]),
    "peer_timeout": ("500ms", 0.5),
    "preload": ("false", False),
    "cache_dir": ("/var/caravan", Path("/var/caravan")),
    "models_dir": ("/var/models", Path("/var/models")),
    "models_max_bytes": ("1000", 1000),
    "pull": ("off", False),
    "registry_allow": ("ghcr.io, hf.co/Qwen", ["ghcr.io", "hf.co/Qwen"]),
    "registry_insecure": ("on", True),
    "hub_token": ("hf_abc", "hf_abc"),
    "keep_alive": ("1h30m", 5400.0),
    "load_timeout": ("90", 90.0),
    "load_total_timeout": ("2h", 7200.0),
    "context_length": ("8192", 8192),
    "num_parallel": ("4", 4),
    "adapters": ("8", 8),
    "max_loaded_models": ("2", 2),
    "max_queue": ("7", 7),
    "max_queue_tokens": ("0", 0),
    "cache_per_key": ("off", False),
    "origins": ("https://a.com, app://*", ["https://a.com", "app://*"]),
    "keys_file": ("/etc/caravan/keys.yaml", Path("/etc/caravan/keys.yaml")),
    "open_paths": ("none", []),
    "debug": ("1", True),
    "log_format": ("json", "json"),
    "capture_content": ("on", True),
    "max_body_bytes": ("1000", 1000),
    "body_timeout": ("10s", 10.0),
    "headers_timeout": ("5s", 5.0),
    "send_timeout": ("30s", 30.0),
    "request_timeout": ("2m", 120.0),
    "limits": ('{"messages": 5, "images": 0}', InputLimits(messages=5, images=0)),
    "tools": ("net, webview", ["net", "webview"]),
    "tools_urls": ("any", "any"),
    "tools_turns": ("3", 3),
    "tools_calls": ("20", 20),
    "tools_timeout": ("2m", 120.0),
    "tools_max_bytes": ("1000", 1000),
    "search_url": ("http://searxng:8080", "http://searxng:8080"),
    "signin_url": ("https://example.com/keys", "https://example.com/keys"),
    "fetch_robots": ("false", False),
    "fetch_allow": ("wiki.corp, *.lan:8080, 10.0.0.0/8", ["wiki.corp", "*.lan:8080", "10.0.0.0/8"]),
    "fetch_deny": ("evil.example", ["evil.example"]),
    "fetch_proxy": ("http://user:secret@proxy:3128", "http://user:secret@proxy:3128"),
    "browser_url": ("ws://browser:9222", "ws://browser:9222"),
    "browser_pages": ("2", 2),
    "limits_redis_url": ("rediss://:secret@cache:6379/1", "rediss://:secret@cache:6379/1"),
    "limits_redis_timeout": ("500ms", 0.5),
    "limits_redis_fail": ("closed", "closed"),
    "grace_period": ("2m", 120.0),
    "drain_delay": ("5", 5.0),
    "engine_hang_timeout": ("0", math.inf),
    "crash_limit": ("0", 0),
    "crash_window": ("1h", 3600.0),
    "tool_calls_done_reason": ("stop", "stop"),
    "stream_default": ("false", False),
    "repeat_text": ("true", True),
    "kv_cache_bytes": ("2097152", 2097152),
    "stream_interval": ("8", 8),
    "front_ends": ("4", 4),
    "memory_bytes": ("8589934592", 8 << 30),
    "sleep_memory": ("8589934592", 8 << 30),
    "load_patience": ("1m", 60),
}
"""What a variable may hold for each setting, and what the setting then is; `models` has tests of its own."""

SHARED = (
    "host",
    "models_dir",
    "keep_alive",
    "load_timeout",
    "context_length",
    "num_parallel",
    "max_loaded_models",
    "max_queue",
    "origins",
    "debug",
)
"""The settings that also go by Ollama's name."""

BAD = {
    "host": ("h:port", "h:65536", "h:-1", "http://h:x/"),
    "models": ("{}", "[{", '"m"', '[{"name":"m"}]', '[{"name":"m","source":""}]'),
    "peers": ("a:11434", "http://", "ftp://a", "http://a/api"),
    "peer_pools": ("a:11434",),
    "peer_timeout": ("0", "-1", "soon"),
    "preload": ("maybe",),
    "models_max_bytes": ("-1", "1G"),
    "pull": ("maybe",),
    "registry_allow": ("a/b/c", "/x", "a/"),
    "registry_insecure": ("maybe",),
    "keep_alive": ("soon", "1.5", "5 m", "99999999999h"),
    "load_timeout": ("soon",),
    "load_total_timeout": ("soon",),
    "context_length": ("-1", "4k"),
    "num_parallel": ("-1", "1.5"),
    "adapters": ("0", "65", "x"),
    "max_loaded_models": ("x",),
    "max_queue": ("-1",),
    "max_queue_tokens": ("-1",),
    "cache_per_key": ("some",),
    "origins": ("example.com", "https://*.a.*"),
    "open_paths": ("/api/tags", "all", "/,none"),
    "debug": ("loud",),
    "log_format": ("xml",),
    "capture_content": ("loud",),
    "max_body_bytes": ("0",),
    "body_timeout": ("0", "-1", "1x"),
    "headers_timeout": ("0", "-1", "soon"),
    "send_timeout": ("soon",),
    "request_timeout": ("soon",),
    "limits": ("[]", "{", "5", '{"nosuch": 1}', '{"stop": -1}', '{"stop": 1.5}', '{"stop": true}'),
    "tools": ("shell", "net,shell"),
    "tools_urls": ("some",),
    "tools_turns": ("1", "101"),
    "tools_calls": ("0", "1001"),
    "tools_timeout": ("0", "soon"),
    "tools_max_bytes": ("0",),
    "search_url": ("searxng:8080", "ftp://searxng"),
    "signin_url": ("example.com/keys", "javascript:alert(1)"),
    "fetch_robots": ("maybe",),
    "fetch_allow": ("http://a", "a b", "10.0.0.1/8", "127.1", "a:0", "a:b", "*", "[::1", "a,0x7f.1"),
    "fetch_deny": ("a/b", "fe80::1%eth0"),
    "fetch_proxy": ("proxy:3128", "socks5://proxy", "http://", "http://proxy/path", "http://proxy:x"),
    "browser_url": ("browser:9222", "ftp://browser"),
    "browser_pages": ("0", "x"),
    "limits_redis_url": ("localhost:6379", "http://localhost", "redis://"),
    "limits_redis_timeout": ("0", "-1", "soon"),
    "limits_redis_fail": ("maybe",),
    "grace_period": ("-1", "soon"),
    "drain_delay": ("-1",),
    "engine_hang_timeout": ("soon",),
    "crash_limit": ("-1",),
    "crash_window": ("0",),
    "tool_calls_done_reason": ("length",),
    "stream_default": ("maybe",),
    "repeat_text": ("2",),
    "kv_cache_bytes": ("1000",),
    "stream_interval": ("-1",),
    "front_ends": ("0", "65", "many"),
    "memory_bytes": ("-1", "1G"),
    "sleep_memory": ("-1", "64G"),
    "load_patience": ("soon",),
}


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in [name for name in os.environ if name.startswith(("CARAVAN_", "OLLAMA_"))]:
        monkeypatch.delenv(variable)


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The configuration file that the environment names; a test writes it."""
    path = tmp_path / "caravan.yaml"
    monkeypatch.setenv(CONFIG_VARIABLE, str(path))
    return path


def test_the_tables_here_name_every_setting() -> None:
    known = set(Settings.model_fields)
    assert {*SET, "models"} == known
    assert {*BAD, "cache_dir", "models_dir", "hub_token", "keys_file"} == known


def test_the_settings_shared_with_ollama_are_these() -> None:
    aliases = {name: field.validation_alias for name, field in Settings.model_fields.items()}
    shared = [name for name, alias in aliases.items() if "OLLAMA_" in str(alias)]
    assert sorted(shared) == sorted(SHARED)
    for name in shared:
        alias = Settings.model_fields[name].validation_alias
        assert isinstance(alias, AliasChoices)
        theirs = "OLLAMA_MODELS" if name == "models_dir" else f"OLLAMA_{name.upper()}"
        assert alias.choices == [f"CARAVAN_{name.upper()}", theirs]


def test_without_any_setting_the_server_is_ollamas() -> None:
    settings = read_settings()
    assert settings.host == Address(host="127.0.0.1", port=11434)
    assert (settings.keep_alive, settings.load_timeout, settings.max_queue) == (300.0, 300.0, 512)
    assert settings.cache_dir == Path.home() / ".cache" / "caravan"
    assert settings.tool_calls_done_reason == "tool_calls"
    assert settings.models == []
    assert (settings.keys_file, settings.open_paths) == (None, ["/", "/api/version"])


@pytest.mark.parametrize("name", SET)
def test_a_variable_sets(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text, value = SET[name]
    assert getattr(read_settings(), name) != value
    monkeypatch.setenv(f"CARAVAN_{name.upper()}", text)
    assert getattr(read_settings(), name) == value


@pytest.mark.parametrize("name", [name for name in SHARED if name != "models_dir"])
def test_ollamas_variable_sets_it_too_and_yields_to_ours(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text, value = SET[name]
    monkeypatch.setenv(f"OLLAMA_{name.upper()}", text)
    assert getattr(read_settings(), name) == value
    monkeypatch.setenv(f"OLLAMA_{name.upper()}", BAD[name][0])
    monkeypatch.setenv(f"CARAVAN_{name.upper()}", text)
    assert getattr(read_settings(), name) == value


@pytest.mark.point(21)
def test_ollamas_origins_are_added_to_the_local_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_ORIGINS", "https://*.bar.com")
    origins = Origins(read_settings().origins)
    asked = ("https://a.bar.com", "http://a.bar.com", "http://localhost")
    assert [origins.grant(origin) for origin in asked] == ["https://a.bar.com", None, "http://localhost"]


def test_ollamas_store_is_not_our_list_of_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_MODELS", "/var/lib/ollama/models")
    assert read_settings().models == []
    assert read_settings().models_dir == Path("/var/lib/ollama/models")
    monkeypatch.setenv("CARAVAN_MODELS_DIR", "~/models")
    assert read_settings().models_dir == Path.home() / "models"


@pytest.mark.parametrize("text", [" 1h ", '"1h"', "'1h'", " '1h' ", '" 1h "'])
def test_spaces_and_quotes_around_a_variable_are_no_part_of_it(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMA_KEEP_ALIVE", text)
    assert read_settings().keep_alive == 3600.0


@pytest.mark.parametrize("text", ["", "  ", '""', "' '"])
def test_an_empty_variable_is_not_set(text: str, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config.write_text("max_queue: 3\n")
    monkeypatch.setenv("CARAVAN_KEEP_ALIVE", text)
    monkeypatch.setenv("OLLAMA_KEEP_ALIVE", "2m")
    monkeypatch.setenv("OLLAMA_MAX_QUEUE", text)
    settings = read_settings()
    assert (settings.keep_alive, settings.max_queue) == (120.0, 3)


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("", "127.0.0.1", 11434),
        ("1.2.3.4", "1.2.3.4", 11434),
        ("example.com", "example.com", 11434),
        ("::1", "::1", 11434),
        ("[::1]", "::1", 11434),
        ("[::1]:8080", "::1", 8080),
        (":8080", "", 8080),
        ("1.2.3.4:", "1.2.3.4", 11434),
        ("1.2.3.4:0", "1.2.3.4", 0),
        ("http://h", "h", 80),
        ("https://h", "h", 443),
        ("http://h:1234/prefix", "h", 1234),
        ("https://[::1]/prefix", "::1", 443),
        ("http://", "127.0.0.1", 80),
        ("/prefix", "127.0.0.1", 11434),
    ],
)
def test_an_address_is_read_as_ollama_does(text: str, host: str, port: int) -> None:
    assert read_address(text) == {"host": host, "port": port}


@pytest.mark.point(107)
@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("-1", math.inf),
        ("-5m", math.inf),
        ("0", 0.0),
        ("90", 90.0),
        ("1h", 3600.0),
        ("1m30s", 90.0),
        ("5ms", 0.005),
    ],
)
def test_keep_alive_is_a_duration_or_seconds(
    text: str, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMA_KEEP_ALIVE", text)
    assert read_settings().keep_alive == seconds


@pytest.mark.parametrize("text", ["0", "-1", "0s", "-5m"])
def test_a_load_timeout_of_nothing_is_no_limit(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_LOAD_TIMEOUT", text)
    assert read_settings().load_timeout == math.inf


@pytest.mark.parametrize(
    ("text", "captures"), [("true", True), ("NO_CONTENT", False), ("SPAN_ONLY", True), ("false", False)]
)
def test_content_is_switched_on_by_the_standard_variable_too(
    text: str, captures: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", text)
    assert read_settings().capture_content is captures


@pytest.mark.parametrize(
    ("text", "debug"), [("0", False), ("false", False), ("1", True), ("2", True), ("t", True)]
)
def test_debug_is_a_switch_or_a_level(text: str, debug: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_DEBUG", text)
    assert read_settings().debug is debug


def test_a_home_folder_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CARAVAN_CACHE_DIR", "~/models")
    assert read_settings().cache_dir == Path.home() / "models"


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ({}, ["smollm2:135m"]),
        ({"models": "[]"}, []),
        ({"peers": "http://a"}, []),
        ({"peer_pools": "http://a"}, []),
        ({"peers": "http://a", "models": '[{"name":"m","source":"s"}]'}, ["m"]),
    ],
)
def test_the_bundled_model_is_for_those_who_name_none(
    given: dict[str, str], names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in given.items():
        monkeypatch.setenv(f"CARAVAN_{name.upper()}", text)
    assert [model.name for model in served(read_settings())] == names


def test_a_file_may_say_that_there_are_no_models(config: Path) -> None:
    config.write_text("models: []\npreload: false\n")
    settings = read_settings()
    assert served(settings.model_copy(update={"host": settings.host})) == []


def test_models_are_a_list_in_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "CARAVAN_MODELS",
        '[{"name":"a","source":"org/a"},{"name":"b:1","source":"a","system":"S","messages":[["user","U"]]}]',
    )
    first, second = read_settings().models
    assert (first.name, first.source, first.system) == ("a", "org/a", "")
    assert (second.name, second.source, second.system, second.messages) == ("b:1", "a", "S", [("user", "U")])


def test_messages_are_pairs_or_what_the_api_takes_for_one(config: Path) -> None:
    config.write_text(
        """
        models:
          - name: a
            source: s
            messages: [[user, U], {role: assistant, content: A}, {content: B, role: user}]
        """
    )
    assert read_settings().models[0].messages == [("user", "U"), ("assistant", "A"), ("user", "B")]


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ({"role": "user"}, "a message without content"),
        ({}, "a message without role and content"),
        ({"role": "user", "content": "U", "images": []}, "a message has role and content, not images"),
        ({"role": "user", "content": None}, "Input should be a valid string"),
        (["user"], "Field required"),
    ],
)
def test_a_message_that_is_neither_is_named(message: object, reason: str) -> None:
    with pytest.raises(BadSetting) as caught:
        read_settings(models=[{"name": "a", "source": "s", "messages": [message]}])
    assert str(caught.value).startswith("--model.0.messages.0")
    assert str(caught.value).endswith(f"{reason} (model 'a')")


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in BAD.items() for text in texts])
def test_a_bad_value_is_named_in_one_line(name: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for prefix in ("OLLAMA_", "CARAVAN_") if name in SHARED else ("CARAVAN_",):
        variable = prefix + name.upper()
        monkeypatch.setenv(variable, text)
        with pytest.raises(BadSetting) as caught:
            read_settings()
        message = str(caught.value)
        assert message.startswith(variable)
        assert "\n" not in message
        monkeypatch.delenv(variable)


def test_the_variable_that_was_really_set_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CARAVAN_MAX_QUEUE", " ")
    monkeypatch.setenv("OLLAMA_MAX_QUEUE", "many")
    monkeypatch.setenv("OLLAMA_MODELS", "/models")
    with pytest.raises(BadSetting, match=r"^OLLAMA_MAX_QUEUE: "):
        read_settings()
    monkeypatch.setenv("OLLAMA_MAX_QUEUE", "1")
    monkeypatch.setenv("CARAVAN_MODELS", '[{"name":"m","source":"s","sistem":"x"}]')
    with pytest.raises(BadSetting, match=r"^CARAVAN_MODELS\.0\.sistem: "):
        read_settings()


@pytest.mark.parametrize(
    ("model", "where", "reason"),
    [
        ({"name": "a b", "source": "s"}, "name", "invalid model name 'a b'"),
        (
            {"name": "a", "source": "s", "parameters": {"stop": "x"}},
            "parameters",
            'option "stop" must be of type array',
        ),
    ],
)
def test_a_model_that_no_request_could_use_is_refused_at_the_start(
    model: dict[str, Any], where: str, reason: str
) -> None:
    with pytest.raises(BadSetting) as caught:
        read_settings(models=[model])
    assert str(caught.value) == f"--model.0.{where}: {reason} (model {model['name']!r})"


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_bad_option_of_the_command_line_is_named(port: int) -> None:
    with pytest.raises(BadSetting, match=r"^--host: 'x' is not a port$"):
        read_settings(host="h:x")
    with pytest.raises(BadSetting, match=r"^--port: "):
        read_settings(port=port)


def test_a_configuration_file_sets_everything(config: Path) -> None:
    config.write_text(
        """
        host: 0.0.0.0:9000
        keep_alive: 1h
        max_queue: 3
        debug: true
        origins: [https://a.com]
        models:
          - name: a
            source: org/a
            parameters: {temperature: 0.5, stop: [x]}
            engine: {dtype: float32}
        """
    )
    settings = read_settings()
    assert settings.host == Address(host="0.0.0.0", port=9000)
    assert (settings.keep_alive, settings.max_queue, settings.debug) == (3600.0, 3, True)
    assert settings.origins == ["https://a.com"]
    assert settings.models[0].parameters == {"temperature": 0.5, "stop": ["x"]}
    assert settings.models[0].engine == {"dtype": "float32"}


def test_the_command_line_comes_before_the_environment_and_that_before_the_file(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config.write_text("host: 3.3.3.3:3\nkeep_alive: 3s\nmax_queue: 3\n")
    monkeypatch.setenv("OLLAMA_HOST", "2.2.2.2:2")
    monkeypatch.setenv("OLLAMA_KEEP_ALIVE", "2s")
    settings = read_settings(host="1.1.1.1:1")
    assert settings.host == Address(host="1.1.1.1", port=1)
    assert (settings.keep_alive, settings.max_queue, settings.num_parallel) == (2.0, 3, 0)


@pytest.mark.parametrize("given", [{}, {"host": "1.1.1.1:1"}])
def test_the_port_option_keeps_the_host(given: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_HOST", "2.2.2.2:2")
    host = "1.1.1.1" if given else "2.2.2.2"
    assert read_settings(port=7, **given).host == Address(host=host, port=7)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("max_queue: many\n", "max_queue: Input should be a valid integer"),
        ("max_queues: 1\n", "max_queues: Extra inputs are not permitted"),
        ("models:\n  - {name: a}\n", "models.0.source: Field required (model 'a')"),
        ("models:\n  - {source: s}\n", "models.0.name: Field required"),
        ("models:\n  - a\n", "models.0: Input should be a valid dictionary"),
        (
            "models:\n  - {name: a, source: s}\n  - {name: 'b:1', source: s, license: {}}\n",
            "models.1.license: Input should be a valid list (model 'b:1')",
        ),
        (
            "models:\n  - {name: a, source: s, parameters: {top_k: x}}\n",
            "models.0.parameters: option",
        ),
        (
            "models:\n  - {name: a, source: s, licence: MIT}\n",
            "models.0.licence: a model has no such key; there are: name, source, system, template, "
            "chat_template, parameters, messages, license, tool_parser, reasoning_parser, engine, "
            "adapter (model 'a')",
        ),
        ("keep_alive: yes\n", "keep_alive: True is not a duration"),
        ("keep_alive: .nan\n", "keep_alive: nan is not a duration"),
        ("[1]\n", "it must hold names and values of settings"),
        ("1: x\n", "it must hold names and values of settings"),
        ("a: [\n", "while parsing a flow node"),
    ],
)
def test_a_bad_file_is_named_with_its_key(text: str, reason: str, config: Path) -> None:
    config.write_text(text)
    with pytest.raises(BadSetting) as caught:
        read_settings()
    assert str(caught.value).startswith(f"configuration file {config}: {reason}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["MIT", "[MIT]"])
def test_one_license_needs_no_list(text: str, config: Path) -> None:
    config.write_text(f"models:\n  - {{name: a, source: s, license: {text}}}\n")
    assert read_settings().models[0].license == ["MIT"]


def test_a_file_that_is_not_there_is_not_passed_over(config: Path) -> None:
    with pytest.raises(BadSetting, match=r"No such file or directory$"):
        read_settings()


def test_an_empty_file_sets_nothing(config: Path) -> None:
    config.write_text("# nothing yet\n")
    assert read_settings() == Settings()


def test_the_configuration_file_changes_rows_of_the_table_of_limits(config: Path) -> None:
    config.write_text("limits: {messages: 7, image_pixels: 1000}")
    assert read_settings().limits == InputLimits(messages=7, image_pixels=1000)
    config.write_text("limits: {mesages: 7}")
    with pytest.raises(BadSetting, match="limits: 'mesages' is not a limit; there are: head_bytes, "):
        read_settings()
