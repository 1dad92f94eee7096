"""Which NATS servers, and how they are to know who this is."""

import re
from pathlib import Path

import pytest

from socketpusher.jetstream.options import NatsOptions


@pytest.fixture(autouse=True)
def no_credentials_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NATS_CREDS", "NATS_TOKEN", "NATS_USER", "NATS_PASSWORD"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("url", ["nats://localhost", "h", "h:4222", "tls://h:4222", "nats://[::1]:4222", "nats://h/"])
def test_an_address_of_a_server_is_taken(url: str) -> None:
    assert NatsOptions(url).connect_arguments()["servers"] == [url]


@pytest.mark.parametrize(
    "url", ["", "http://h", "nats://", "nats://h:port", "nats://h:0", "nats://a,,nats://b", "TLS://t@h"]
)
def test_an_address_that_is_none_is_refused_with_an_example(url: str) -> None:
    with pytest.raises(ValueError, match="nats://localhost"):
        NatsOptions(url)


def test_several_servers_are_separated_by_commas() -> None:
    assert NatsOptions("nats://a, nats://b:1").servers == ["nats://a", "nats://b:1"]


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("nats://user:password@a", {"user": "user", "password": "password"}),
        ("user:password@a,b", {"user": "user", "password": "password"}),
        ("nats://user:password@a, nats://user:password@b", {"user": "user", "password": "password"}),
        ("nats://us%3Aer:a%2Cb%40c%2F%25@a", {"user": "us:er", "password": "a,b@c/%"}),
        ("nats://user:p@ss:word@a", {"user": "user", "password": "p@ss:word"}),
        ("nats://to%2Cken@a", {"token": "to,ken"}),
    ],
)
def test_a_user_and_password_in_a_url_are_decoded_and_used_for_each_server(url: str, expected: dict[str, str]) -> None:
    options = NatsOptions(url)
    arguments = options.connect_arguments()
    assert arguments == {"servers": options.servers, **expected}
    assert "@" not in str(options)


def test_credentials_come_from_the_environment_if_none_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NATS_USER", "user")
    monkeypatch.setenv("NATS_PASSWORD", "pass:word")
    assert NatsOptions("a").connect_arguments() == {"servers": ["a"], "user": "user", "password": "pass:word"}
    assert NatsOptions("a", token="t").connect_arguments() == {"servers": ["a"], "token": "t"}
    assert NatsOptions("t@a").connect_arguments() == {"servers": ["a"], "token": "t"}
    monkeypatch.delenv("NATS_USER")
    monkeypatch.setenv("NATS_PASSWORD", "")
    monkeypatch.setenv("NATS_TOKEN", "token")
    assert NatsOptions("a").connect_arguments() == {"servers": ["a"], "token": "token"}
    monkeypatch.setenv("NATS_CREDS", "/nowhere/creds")
    with pytest.raises(FileNotFoundError, match="credentials"):
        NatsOptions("a").connect_arguments()


def test_a_secret_is_shown_nowhere() -> None:
    options = NatsOptions("nats://user:secret@a, tls://user:secret@b", token="secret")
    assert str(options) == "nats://a, tls://b"
    assert "secret" not in repr(options)
    with pytest.raises(ValueError, match="'http://a' is not the address"):
        NatsOptions("http://user:secret@a")


@pytest.mark.parametrize(
    "url",
    [
        *("nats://user:s1cret,s2cret@h", "nats://user:12,s2cret@h", "nats://user:12,34@s2cret,56@h", "12,s2cret@h"),
        *("nats://user:s1cret://s2cret@h", "user:s1cret://s2cret@h", "nats://user:/s2cret@h", "s1cret://s2cret@h"),
        *("nats://user:s1cret,nats://s2cret@h", "nats://user:12#s2cret@h", "nats://user:12?s2cret@h"),
        *(
            "nats://user:s1cret@a,nats://user:s2cret@h",
            "nats://12,nats://s2cret@h",
            "http://user:s1cret,s2cret@h",
            "nats://u:s1\ncret,s2@h",
        ),
    ],
)
def test_no_part_of_a_password_with_special_characters_is_shown(url: str) -> None:
    with pytest.raises(ValueError) as caught:
        NatsOptions(url)
    assert re.findall("s1|s2|12|34|cret", str(caught.value)) == []
    assert "as %2C" in str(caught.value) or "give the same to each" in str(caught.value)


@pytest.mark.parametrize(
    ("url", "files", "wanted"),
    [
        ("nats://a", {}, False),
        ("tls://a", {}, True),
        ("nats://a,tls://b", {}, True),
        ("nats://a", {"tls_ca": "ca.pem"}, True),
        ("nats://a", {"tls_cert": "cert.pem"}, True),
    ],
)
def test_who_gives_a_reason_for_tls_gets_nothing_else(url: str, files: dict[str, str], wanted: bool) -> None:
    assert NatsOptions(url, **files).wants_tls == wanted


def test_a_key_without_its_certificate_is_refused() -> None:
    with pytest.raises(ValueError, match="certificate"):
        NatsOptions("nats://a", tls_key="key.pem")


def test_files_that_can_not_be_used_are_named(tmp_path: Path) -> None:
    wrong = tmp_path / "file"
    wrong.write_text("nothing")
    with pytest.raises(ValueError, match=str(wrong)):
        NatsOptions("nats://a", tls_ca=str(wrong)).connect_arguments()
    with pytest.raises(ValueError, match=str(wrong)):
        NatsOptions("nats://a", creds=str(wrong)).connect_arguments()
    with pytest.raises(FileNotFoundError, match="credentials"):
        NatsOptions("nats://a", creds=str(tmp_path / "missing")).connect_arguments()
