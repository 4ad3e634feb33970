"""Who may speak to whom: one self-signed certificate a clone, and a trust store of exactly the members' certificates.

TLS 1.3 with both sides authenticated. OpenSSL refuses whoever is not in the store before any of our code sees a byte;
afterwards `Trust.peer_id` looks the exact certificate up again, because OpenSSL alone would also take one that a
trusted certificate has signed. What changes in the store holds from the next handshake on; closing the live
connections of a member that was removed is the caller's part.
"""

import datetime
import os
import ssl
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

from replica.errors import PairingError, ProtocolError, ReplicaError, Unreachable
from replica.keys import clone_id, write_private

ALPN = "replica/1"
MAX_CERTIFICATE = 1024  # bytes of DER; ours have 282

# The server name that asks for the certificate of now, and the one that asks for an earlier one of that clone: a caller
# that was away while a clone came back under a new identity knows only an earlier one.
NAME, FORMER_NAME = "replica", "former-{}.replica"
MOST_FORMER = 3

# X509_V_FLAG_NO_CHECK_TIME of OpenSSL's x509_vfy.h: a laptop's clock must not decide who is a member.
NO_CHECK_TIME = 0x200000

# What stands between the signed part and the 64 bytes of the signature: id-Ed25519 (RFC 8410), and a bit string's head.
BEFORE_SIGNATURE = bytes.fromhex("300506032b6570" + "034100")

FOREVER = (datetime.datetime(1970, 1, 1), datetime.datetime(9999, 12, 31))


# --- certificates


def make_certificate(private: bytes, name: str = "") -> bytes:
    """The certificate of a clone in DER; equal keys make equal certificates.

    `name` is not put in: a certificate is shown to whoever dials, and the name of a clone or a person is not theirs to
    know. The subject is the clone's id in hexadecimal.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding

    key = Ed25519PrivateKey.from_private_bytes(private)
    subject = _subject(key.public_key().public_bytes_raw())
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(FOREVER[0])
        .not_valid_after(FOREVER[1])
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, None)
    )
    return certificate.public_bytes(Encoding.DER)


def check_certificate(der: bytes) -> bytes:
    """The raw public key of a clone's certificate, if it is of the one form that `make_certificate` makes.

    Raises:
        ProtocolError: it cannot be decoded, or is too large.
        PairingError: it is a certificate, but could speak for others, or does not belong to its own key.
    """
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    if not isinstance(der, bytes) or not 0 < len(der) <= MAX_CERTIFICATE:
        raise ProtocolError(f"a certificate has at most {MAX_CERTIFICATE} bytes")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about odd certificates, to the terminal; ours are checked below
            certificate = x509.load_der_x509_certificate(der)
        key, extensions = certificate.public_key(), list(certificate.extensions)
        subject, issuer = certificate.subject, certificate.issuer
    except Exception as error:  # the parser's errors have no common base: ValueError, x509.*, UnsupportedAlgorithm
        raise ProtocolError(f"not a certificate: {error}") from None
    if not isinstance(key, Ed25519PublicKey):
        raise PairingError("the certificate's key is not an Ed25519 key")
    public = key.public_bytes_raw()
    if [extension.value for extension in extensions] != [x509.BasicConstraints(ca=False, path_length=None)]:
        raise PairingError("the certificate could sign for others; a clone's must not")
    if not subject == issuer == _subject(public):
        raise PairingError("the certificate does not carry the id of its own key")
    # The signature does not cover these bytes, and peers are told apart by their exact certificate.
    if not der.endswith(certificate.tbs_certificate_bytes + BEFORE_SIGNATURE + certificate.signature):
        raise PairingError("the certificate is not signed with Ed25519")
    try:
        key.verify(certificate.signature, certificate.tbs_certificate_bytes)
    except InvalidSignature:
        raise PairingError("the certificate is not signed by its own key") from None
    return public


def _subject(public: bytes):
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, clone_id(public).hex())])


def write_pem(path: Path, private: bytes, der: bytes) -> None:
    """Write key and certificate where OpenSSL can load them (it takes files only), readable by the owner alone."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = Ed25519PrivateKey.from_private_bytes(private)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    write_private(path, pem + ssl.DER_cert_to_PEM_cert(der).encode("ascii"))


# --- contexts


class Trust:
    """The members' certificates as both sides of TLS use them.

    `server` is one context for as long as the listener lives: it hands every handshake to the current one. Take
    `client` anew for each connection.
    """

    def __init__(self, pem: Path, certs: Mapping[bytes, bytes]):
        self._pem = pem
        self._former: list[tuple[bytes, ssl.SSLContext]] = []  # clone id, context; the newest first
        self._accepted: dict[bytes, bytes] = {}  # DER to clone id
        self.refusals = 0  # certificates that the last update left out
        # The listening context trusts nobody, so that a handshake is refused should the swap ever fail.
        self.server = self._context(ssl.PROTOCOL_TLS_SERVER, b"")
        self.server.sni_callback = self._use_current
        self.update(certs)

    def update(self, certs: Mapping[bytes, bytes]) -> list[bytes]:
        """Trust exactly these, `{clone id: DER}`, from the next handshake on.

        Returns the ids that were left out since their certificate is not valid or not theirs: they are refused, and
        the others go on.
        """
        known = {der: member for der, member in self._accepted.items() if certs.get(member) == der}
        new = {member: der for member, der in certs.items() if der not in known}
        left_out = [member for member, der in new.items() if not _belongs(member, der)]
        known.update({der: member for member, der in new.items() if member not in left_out})
        store = b"".join(known)
        self._current = self._context(ssl.PROTOCOL_TLS_SERVER, store)
        self.client = self._context(ssl.PROTOCOL_TLS_CLIENT, store)
        self._former = []
        self._accepted = known
        self.refusals = len(left_out)
        return left_out

    def peer_id(self, ssl_object) -> bytes | None:
        """The member at the other end of a finished handshake; None is nobody, and the caller must hang up."""
        der = ssl_object.getpeercert(binary_form=True)
        return None if der is None else self._accepted.get(der)

    def also_show(self, former: Sequence[tuple[bytes, Path]]) -> None:
        """Show these earlier identities, the newest first, to whoever asks for them; after each `update`."""
        store = b"".join(self._accepted)
        self._former = [
            (id, self._context(ssl.PROTOCOL_TLS_SERVER, store, pem)) for id, pem in former[:MOST_FORMER]
        ]  # fmt: skip

    def shown(self, ssl_object) -> bytes | None:
        """The earlier identity that a caller has asked for; None: today's."""
        return next((id for id, context in self._former if ssl_object.context is context), None)

    def _use_current(self, ssl_object, server_name: str | None, _context) -> int | None:
        asked = [FORMER_NAME.format(at) for at in range(1, MOST_FORMER + 1)]
        if server_name not in asked:
            ssl_object.context = self._current
        elif asked.index(server_name) < len(self._former):
            ssl_object.context = self._former[asked.index(server_name)][1]
        else:
            return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
        return None

    def _context(self, protocol: int, store: bytes, pem: Path | None = None) -> ssl.SSLContext:
        context = _base(protocol)
        context.load_cert_chain(pem or self._pem)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | NO_CHECK_TIME
        context.set_alpn_protocols([ALPN])
        if store:
            context.load_verify_locations(cadata=store)
        return context


def _belongs(member: bytes, der: bytes) -> bool:
    try:
        return clone_id(check_certificate(der)) == member
    except ReplicaError:
        return False


def pairing_server_context(pem: Path) -> ssl.SSLContext:
    """For the listener of an invitation: shows our certificate, asks for none."""
    context = _base(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    return context


def pairing_client_context() -> ssl.SSLContext:
    """For joining: takes any certificate. The key exchange proves it afterwards (transport/pairing.py)."""
    context = _base(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _base(protocol: int) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    if protocol == ssl.PROTOCOL_TLS_SERVER:
        context.num_tickets = 0  # with a ticket a removed member came back without showing its certificate
    return context


def alpn(ssl_object) -> bool:
    """Whether both sides agreed on our protocol. OpenSSL goes on without one if they share none: hang up then."""
    return ssl_object.selected_alpn_protocol() == ALPN


# --- errors


def is_unknown(error: BaseException) -> bool:
    """Whether a failed attempt to connect means that the other end has no member of our certificate."""
    from websockets.exceptions import InvalidMessage

    # A member list without us ends the connection after our side of the handshake, without a word.
    return isinstance(error, InvalidMessage) and isinstance(error.__cause__, EOFError | ConnectionError)


def explain(error: BaseException, where: str) -> ReplicaError:
    """What a failed attempt to connect to `where` means, in one sentence for a person."""
    from websockets.exceptions import InvalidHandshake

    if isinstance(error, ReplicaError):
        return error
    if isinstance(error, ssl.SSLCertVerificationError):
        return PairingError(
            f"{where} is not a member of this workspace, or not one that this clone knows of",
            hint="if it should be one, pair the two again: `replica invite` there or here",
        )
    if is_unknown(error):
        return PairingError(
            f"{where} does not know this clone, or no longer",
            hint="pair again: `replica invite` there, `replica join CODE` here",
        )
    if isinstance(error, ssl.SSLError | InvalidHandshake):
        return ProtocolError(
            f"what answers at {where} is not memory-replica", hint="check the port, and the version at the other end"
        )
    if isinstance(error, TimeoutError):
        return Unreachable(f"{where} did not answer in time", hint="is that machine on, and in this network?")
    why = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
    return Unreachable(f"nobody answers at {where}: {why}", hint="is memory-replica running there?")
