"""Why a connection to NATS fails, and whether to try again."""

import socket
import ssl

import nats.errors
import pytest

from socketpusher.jetstream.connection import connect_failure


def untrusted() -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_message = "self-signed certificate"
    return error


def tls_failed() -> ssl.SSLError:
    error = ssl.SSLError(1, "alert")
    error.reason = "TLSV13_ALERT_CERTIFICATE_REQUIRED"
    return error


@pytest.mark.parametrize(
    ("error", "says", "passes"),
    [
        (untrusted(), ("self-signed certificate", "tls-ca"), False),
        (tls_failed(), ("TLSV13_ALERT_CERTIFICATE_REQUIRED", "tls-cert"), False),
        (nats.errors.SecureConnWantedError(), ("no TLS",), False),
        (nats.errors.Error("nats: 'Authorization Violation'"), ("credentials",), False),
        (nats.errors.Error("nats: authentication expired"), ("credentials",), False),
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), ("Name or service not known",), False),
        (socket.gaierror(socket.EAI_AGAIN, "Temporary failure"), ("Temporary failure",), True),
        (TimeoutError(), ("in time",), True),
        (ConnectionRefusedError(111, "Connect call failed ('127.0.0.1', 4222)"), ("Connection refused",), True),
        (OSError("Multiple exceptions: ..."), ("Multiple exceptions",), True),
        (nats.errors.Error("nats: maximum connections exceeded"), ("maximum connections exceeded",), True),
    ],
)
def test_the_reason_is_told_with_what_to_do_and_only_what_may_pass_is_tried_again(
    error: Exception, says: tuple[str, ...], passes: bool
) -> None:
    reason, may_pass = connect_failure(error)
    assert [part for part in says if part not in reason] == []
    assert not reason.startswith("nats: ")
    assert may_pass == passes
