"""What is a secret of the environment, and in what forms it is kept out of text."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from selfplay.core.redaction import drop_secret_env, find_secret, redact, secrets

VALUE = "CANARYcanary0123"


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in {*secrets().values()}:
        monkeypatch.delenv(name)


@pytest.mark.parametrize(
    "name",
    [
        "GH_PAT", "GITHUB_PAT_READ", "pat", "DB_PASS", "SMTP_PASS_1", "DB_PWD", "NPM_AUTH", "REDIS_AUTH", "SENTRY_DSN", "DSN",
        "DSN_MAIN", "SSH_PRIVATE_KEY", "DEPLOY_PRIVATEKEY", "AZURE_STORAGE_CONNECTION_STRING", "CONNSTR", "PG_CONN_STR",
        "GPG_PASSPHRASE", "OPENAI_KEY", "SESSION_COOKIE", "MY_JWT", "SLACK_WEBHOOK", "db_password", "hf_token",
    ],
)  # fmt: skip
def test_names_of_secrets(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, VALUE)
    assert redact(f"401 for {VALUE}.") == f"401 for [{name}]."
    assert find_secret(f"url: {VALUE}") == f"the value of the environment variable {name}"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PATH", "/usr/bin:/usr/local/bin"), ("COMPAT_MODE", "disabled"), ("RAY_AUTH_MODE", "disabled"),
        ("AWS_CREDENTIALS_FILE", "credentials.ini"), ("SSH_AUTH_SOCK", "/tmp/agent.sock"), ("PATTERN", "alternate"),
        ("COMPASS", "northwest"), ("BYPASS_CACHE", "completely"), ("AUTHOR", "Ada Lovelace"), ("PWD", "/tmp/selfplay"),
        ("KEYBOARD", "qwertyuiop"), ("MY_TOKEN", "short"), ("HTTP_PROXY", "http://proxy:3128"),
    ],
)  # fmt: skip
def test_what_is_no_secret(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    assert redact(f"it is {value}") == f"it is {value}"
    assert find_secret(f"it is {value}") is None


def test_a_secret_that_begins_with_a_slash_is_no_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", f"/{VALUE}+/{VALUE}")
    assert redact(f"key /{VALUE}+/{VALUE}") == "key [AWS_SECRET_ACCESS_KEY]"
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", str(tmp_path / "key"))
    assert redact(f"key {tmp_path / 'key'}") == f"key {tmp_path / 'key'}"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgres://u:pass word@h/x", "postgres://u:pass word@h/x"),  # no URL: it has a space
        ("postgres://u:short@h/x", "postgres://[credentials]@h/x"),
        ("see https://ghp_0123456789@github.com/a/b.git now", "see https://[credentials]@github.com/a/b.git now"),
        ("redis://:p4ss@cache:6379/0, then", "redis://[credentials]@cache:6379/0, then"),
        ("u:p@ss@h in http://u:p@ss@h/x", "u:p@ss@h in http://[credentials]@h/x"),
        ('{"url": "https://a:b@c"}', '{"url": "https://[credentials]@c"}'),
        ("https://c/@user and a@b.c at http://h:80/x", "https://c/@user and a@b.c at http://h:80/x"),
    ],
)
def test_names_and_passwords_in_urls_are_masked(text: str, shown: str) -> None:
    assert redact(text) == shown


def test_a_url_with_a_password_is_a_secret_under_any_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://u:CANARYproxy0007@127.0.0.1:9")
    monkeypatch.setenv("DATABASE_URL", "postgres://u:CAN/ARY@pa%24s@127.0.0.1/x")
    for quoted in (
        "http://u:CANARYproxy0007@127.0.0.1:9", "password CANARYproxy0007 is wrong", "for CAN/ARY@pa%24s", "CAN/ARY@pa$s",
        "CAN%2FARY%40pa%2524s",
    ):  # fmt: skip
        assert "CAN" not in redact(f"error: {quoted}")
    drop_secret_env()
    assert secrets() == {}


@pytest.mark.parametrize("value", ['with "quotes" and \\', "two\nlines of it", "o'clock is it", "ümlaut 0123"])
def test_a_secret_is_found_as_json_yaml_and_python_write_it(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("MY_SECRET", value)
    yaml = value.replace("'", "''")
    for text in (value, json.dumps(value), f"'{yaml}'", repr(value), " ".join(value.split()), repr(OSError(value))):
        assert find_secret(text) is not None
        assert "[MY_SECRET]" in redact(text)


def test_a_configuration_with_a_password_in_a_url_has_a_secret() -> None:
    assert find_secret("uri: https://u:p@host/x") == "a URL with a password"
    assert find_secret("uri: ssh://git@host/x, https://host/@me:you") is None


def test_a_long_key_in_base64(monkeypatch: pytest.MonkeyPatch) -> None:
    key = base64.b64encode(bytes(range(200))).decode()
    monkeypatch.setenv("STORAGE_ACCOUNT_KEY", key)
    assert redact(f"{key}!") == "[STORAGE_ACCOUNT_KEY]!"
