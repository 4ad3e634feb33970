"""Only members get in, and only for as long as they are members. (FAILURES 15, 28)"""

import datetime
import ssl
import stat

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st

from replica.errors import PairingError, ProtocolError, ReplicaError, Unreachable
from replica.keys import Identity
from transport.tls import NO_CHECK_TIME, Trust, alpn, check_certificate, explain, make_certificate, write_pem


class Clone:
    def __init__(self, folder, seed: int):
        self.identity = Identity(bytes([seed]) * 32)
        self.id = self.identity.id
        self.der = make_certificate(self.identity.private, "a human name")
        self.pem = folder / f"{seed}.pem"
        write_pem(self.pem, self.identity.private, self.der)

    def trusting(self, *others: "Clone") -> Trust:
        return Trust(self.pem, {other.id: other.der for other in others})


@pytest.fixture
def clones(tmp_path):
    return [Clone(tmp_path, seed) for seed in (1, 2, 3)]


def handshake(server: ssl.SSLContext, client: ssl.SSLContext, session=None):
    """A whole handshake in memory and one byte each way; the two ends, or the error of the end that refused."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    here = server.wrap_bio(to_server, to_client, server_side=True)
    there = client.wrap_bio(to_client, to_server, server_hostname="replica", session=session)
    for step in (there.do_handshake, here.do_handshake, there.do_handshake, here.do_handshake):
        try:
            step()
        except ssl.SSLWantReadError:
            pass
    here.write(b"x")
    assert there.read(1) == b"x"
    return here, there


def custom_certificate(key, issuer_key, subject: str, issuer: str, *, ca: bool) -> bytes:
    name = lambda text: x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])  # noqa: E731
    builder = x509.CertificateBuilder().subject_name(name(subject)).issuer_name(name(issuer)).serial_number(1)
    builder = builder.not_valid_before(datetime.datetime(1970, 1, 1)).not_valid_after(datetime.datetime(9999, 1, 1))
    builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    return builder.public_key(key.public_key()).sign(issuer_key, None).public_bytes(Encoding.DER)


def test_members_meet_and_know_each_other_by_id(clones):
    a, b, _ = clones
    server, client = a.trusting(b), b.trusting(a)
    here, there = handshake(server.server, client.client)
    assert (server.peer_id(here), client.peer_id(there)) == (b.id, a.id)
    assert alpn(here) and alpn(there) and here.version() == "TLSv1.3"


def test_an_unknown_client_is_refused_by_the_server(clones):
    a, b, c = clones
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(a.trusting(b).server, c.trusting(a).client)


def test_an_unknown_server_is_refused_by_the_client(clones):
    a, b, c = clones
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(c.trusting(b).server, b.trusting(a).client)


def test_a_clone_that_knows_nobody_refuses_everybody(clones):
    a, b, _ = clones
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(a.trusting().server, b.trusting(a).client)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(a.trusting(b).server, b.trusting().client)


def test_a_client_without_a_certificate_is_refused(clones):
    a, b, _ = clones
    bare = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    bare.check_hostname, bare.verify_mode = False, ssl.CERT_NONE
    with pytest.raises(ssl.SSLError):
        handshake(a.trusting(b).server, bare)


def test_a_new_member_is_let_in_and_a_removed_one_refused_at_the_next_handshake(clones):
    a, b, _ = clones
    trust, client = a.trusting(), b.trusting(a)
    trust.update({b.id: b.der})
    here, there = handshake(trust.server, client.client)
    session = there.session
    trust.update({})
    assert trust.peer_id(here) is None
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(trust.server, client.client)
    if session is not None:  # what a session ticket would be used for
        with pytest.raises(ssl.SSLError):
            handshake(trust.server, client.client, session)


def test_a_server_gives_no_ticket_to_come_back_with(clones):
    a, b, _ = clones
    _, there = handshake(a.trusting(b).server, b.trusting(a).client)
    assert there.session is None or not there.session.has_ticket


def test_a_certificate_signed_by_a_trusted_authority_is_nobody(clones, tmp_path):
    """OpenSSL lets it pass, so the exact certificate is looked up."""
    a, _, _ = clones
    ca, leaf = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    ca_der = custom_certificate(ca, ca, "ca", "ca", ca=True)
    leaf_der = custom_certificate(leaf, ca, "leaf", "ca", ca=False)
    path = tmp_path / "leaf.pem"
    pem = leaf.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(pem + ssl.DER_cert_to_PEM_cert(leaf_der).encode())
    trust = a.trusting()
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    client.load_cert_chain(path)

    assert trust.update({b"c" * 16: ca_der}) == [b"c" * 16]
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(trust.server, client)

    trust._current = trust._context(ssl.PROTOCOL_TLS_SERVER, ca_der)  # had it got into the store all the same
    trust._accepted = {ca_der: b"c" * 16}
    here, _ = handshake(trust.server, client)
    assert trust.peer_id(here) is None
    with pytest.raises(PairingError, match="sign for others"):
        check_certificate(ca_der)


def test_one_bad_certificate_does_not_lock_the_others_out(clones):
    a, b, c = clones
    trust = a.trusting()
    assert trust.update({b.id: b.der, c.id: b"garbage", b"x" * 16: c.der}) == [c.id, b"x" * 16]
    here, _ = handshake(trust.server, b.trusting(a).client)
    assert trust.peer_id(here) == b.id


def test_the_contexts_ignore_the_clock_and_allow_nothing_below_tls_1_3(clones):
    trust = clones[0].trusting()
    for context in (trust.server, trust.client):
        assert context.verify_flags & NO_CHECK_TIME
        assert context.minimum_version is ssl.TLSVersion.TLSv1_3
        assert context.verify_mode is ssl.CERT_REQUIRED


def test_a_certificate_tells_its_key_and_no_name(clones):
    a, b, _ = clones
    assert check_certificate(a.der) == a.identity.public
    assert b"human" not in a.der
    assert make_certificate(a.identity.private, "another") == a.der != b.der


def test_the_key_file_is_its_owners_alone(clones):
    assert stat.S_IMODE(clones[0].pem.stat().st_mode) == 0o600


def test_a_certificate_with_a_foreign_id_or_signature_is_refused(clones):
    a, b, _ = clones
    mine, other = (Ed25519PrivateKey.from_private_bytes(clone.identity.private) for clone in (a, b))
    with pytest.raises(PairingError, match="id of its own key"):
        check_certificate(custom_certificate(mine, mine, b.id.hex(), b.id.hex(), ca=False))
    with pytest.raises(PairingError, match="not signed by its own key"):
        check_certificate(custom_certificate(mine, other, a.id.hex(), a.id.hex(), ca=False))


@given(st.binary(max_size=400))
def test_bytes_that_are_no_certificate_only_ever_raise_our_errors(data):
    with pytest.raises(ReplicaError):
        check_certificate(data)


def test_a_certificate_with_any_one_byte_changed_is_refused():
    der = make_certificate(bytes(32))
    for at in range(len(der)):
        for change in (1, 0x80, 0xFF):
            with pytest.raises(ReplicaError):
                check_certificate(der[:at] + bytes([der[at] ^ change]) + der[at + 1 :])


def test_a_certificate_over_the_size_limit_is_not_even_parsed():
    with pytest.raises(ProtocolError, match="at most 1024"):
        check_certificate(bytes(1025))


def test_a_failed_connection_is_explained_by_what_it_means():
    from websockets.exceptions import InvalidMessage, InvalidStatus

    closed = InvalidMessage("no answer")
    closed.__cause__ = EOFError()
    assert "does not know this clone" in str(explain(closed, "h:1"))
    assert "not a member" in str(explain(ssl.SSLCertVerificationError(1, "x"), "h:1"))
    assert isinstance(explain(ssl.SSLError(1, "x"), "h:1"), ProtocolError)
    assert isinstance(explain(InvalidStatus.__new__(InvalidStatus), "h:1"), ProtocolError)
    assert isinstance(explain(TimeoutError(), "h:1"), Unreachable)
    assert isinstance(explain(ConnectionRefusedError(), "h:1"), Unreachable)
    assert all("h:1" in str(explain(error, "h:1")) for error in (closed, TimeoutError(), OSError()))
