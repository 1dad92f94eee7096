"""Which NATS servers, and how they are to know who this is."""

from pathlib import Path

import pytest

from socketpusher.jetstream.options import NatsOptions


@pytest.mark.parametrize(
    "url", ["nats://localhost", "h", "h:4222", "tls://h:4222", "nats://[::1]:4222", "nats://u:p@h"]
)
def test_an_address_of_a_server_is_taken(url: str) -> None:
    assert NatsOptions(url).connect_arguments()["servers"] == [url]


@pytest.mark.parametrize("url", ["", "http://h", "nats://", "nats://h:port", "nats://h:0", "nats://a,,nats://b"])
def test_an_address_that_is_none_is_refused_with_an_example(url: str) -> None:
    with pytest.raises(ValueError, match="nats://localhost"):
        NatsOptions(url)


def test_several_servers_are_separated_by_commas() -> None:
    assert NatsOptions("nats://a, nats://b:1").servers == ["nats://a", "nats://b:1"]


def test_a_secret_is_shown_nowhere() -> None:
    options = NatsOptions("nats://user:secret@a,tls://secret@b", token="secret")
    assert str(options) == "nats://a, tls://b"
    with pytest.raises(ValueError, match="http://a") as caught:
        NatsOptions("http://user:secret@a")
    assert "secret" not in str(caught.value)


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
