"""A real kube-apiserver over a real etcd on loopback, with certificates of its own and RBAC on.

No controller manager, scheduler or kubelet: what those would do is played from recorded timelines.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import shutil
import signal
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

HERE = Path(__file__).parent
START_TIMEOUT_S = 90.0


class Unavailable(Exception):
    """The tier cannot run on this machine; the message is the reason."""


def cache_folder() -> Path:
    """Return where the built API server is kept between sessions."""
    if explicit := os.environ.get("EVCTL_TEST_CACHE"):
        return Path(explicit).absolute()
    return HERE.parents[1] / ".cache" / "cluster"


def binaries() -> tuple[Path, Path]:
    """Return (etcd, kube-apiserver), building the latter once; Unavailable with the reason."""
    etcd = shutil.which("etcd")
    if etcd is None:
        raise Unavailable("etcd is not installed (Debian: etcd-server)")
    folder = cache_folder()
    built = subprocess.run(
        ["sh", str(HERE / "build_apiserver.sh"), str(folder)], capture_output=True, text=True, check=False
    )
    if built.returncode != 0:
        raise Unavailable(f"kube-apiserver did not build: {(built.stderr or built.stdout).strip()[-400:]}")
    return Path(etcd), folder / "kube-apiserver"


def free_port() -> int:
    """Return a loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


@dataclass
class Authority:
    """A certificate authority for one cluster."""

    folder: Path
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    def __post_init__(self) -> None:
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "cluster-tier")])
        self.certificate = self._build(name, name, self.key.public_key(), authority=True)
        self.path = self.folder / "ca.crt"
        self.path.write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))

    def _build(self, subject, issuer, public_key, *, authority=False, names=()):  # type: ignore[no-untyped-def]
        now = dt.datetime.now(dt.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=2))
            .not_valid_after(now + dt.timedelta(days=2))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(list(names)), critical=False)
        return builder.sign(self.key, hashes.SHA256())

    def issue(self, file: str, user: str, groups: tuple[str, ...] = (), *, server: bool = False) -> tuple[Path, Path]:
        """Write `<file>.crt` and `<file>.key` for a user (CN) in groups (O); return their paths."""
        import ipaddress

        key = ec.generate_private_key(ec.SECP256R1())
        attributes = [x509.NameAttribute(NameOID.COMMON_NAME, user)]
        attributes += [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups]
        names = (x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))) if server else ()
        certificate = self._build(x509.Name(attributes), self.certificate.subject, key.public_key(), names=names)
        crt, secret = self.folder / f"{file}.crt", self.folder / f"{file}.key"
        crt.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        secret.write_bytes(_pem(key))
        secret.chmod(0o600)
        return crt, secret


class Cluster:
    """etcd and kube-apiserver of one test session; both can be taken away and brought back."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.etcd_binary, self.api_binary = binaries()
        self.ca = Authority(folder)
        self.port, self.etcd_port, self.peer_port = free_port(), free_port(), free_port()
        self._etcd: subprocess.Popen[bytes] | None = None
        self._api: subprocess.Popen[bytes] | None = None
        self.server_cert = self.ca.issue("server", "kube-apiserver", server=True)
        self.admin_cert = self.ca.issue("admin", "admin", ("system:masters",))
        (folder / "sa.key").write_bytes(_pem(rsa.generate_private_key(65537, 2048)))

    @property
    def url(self) -> str:
        """Return the API server's address."""
        return f"https://127.0.0.1:{self.port}"

    def kubeconfig(self, user: str = "admin", groups: tuple[str, ...] = (), namespace: str = "default") -> Path:
        """Write and return a kubeconfig for a user; admin is in system:masters."""
        path = self.folder / f"{user}.kubeconfig"
        crt, key = self.admin_cert if user == "admin" else self.ca.issue(f"user-{user}", user, groups)
        path.write_text(
            yaml.safe_dump(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "current-context": "tier",
                    "clusters": [
                        {"name": "tier", "cluster": {"server": self.url, "certificate-authority": str(self.ca.path)}}
                    ],
                    "users": [{"name": user, "user": {"client-certificate": str(crt), "client-key": str(key)}}],
                    "contexts": [
                        {"name": "tier", "context": {"cluster": "tier", "user": user, "namespace": namespace}}
                    ],
                }
            )
        )
        return path

    def start(self) -> None:
        """Start both and wait until the API server is ready."""
        self.start_etcd()
        self.start_api()

    def start_etcd(self) -> None:
        """Start etcd over its data folder."""
        log = (self.folder / "etcd.log").open("ab")
        self._etcd = subprocess.Popen(
            [
                str(self.etcd_binary),
                f"--data-dir={self.folder / 'etcd'}",
                f"--listen-client-urls=http://127.0.0.1:{self.etcd_port}",
                f"--advertise-client-urls=http://127.0.0.1:{self.etcd_port}",
                f"--listen-peer-urls=http://127.0.0.1:{self.peer_port}",
                "--initial-cluster=default=http://127.0.0.1:" + str(self.peer_port),
                f"--initial-advertise-peer-urls=http://127.0.0.1:{self.peer_port}",
                "--unsafe-no-fsync",
            ],
            stdout=log,
            stderr=log,
        )

    def start_api(self) -> None:
        """Start the API server and wait until it is ready."""
        log = (self.folder / "apiserver.log").open("ab")
        crt, key = self.server_cert
        sa = self.folder / "sa.key"
        self._api = subprocess.Popen(
            [
                str(self.api_binary),
                f"--etcd-servers=http://127.0.0.1:{self.etcd_port}",
                "--bind-address=127.0.0.1",
                f"--secure-port={self.port}",
                f"--tls-cert-file={crt}",
                f"--tls-private-key-file={key}",
                f"--client-ca-file={self.ca.path}",
                f"--service-account-key-file={sa}",
                f"--service-account-signing-key-file={sa}",
                "--service-account-issuer=https://kubernetes.default.svc",
                "--service-cluster-ip-range=10.96.0.0/16",
                "--authorization-mode=RBAC",
                "--disable-admission-plugins=ServiceAccount",
                # a list served as a watch needs a newer etcd than Debian's
                "--feature-gates=WatchList=false",
                f"--cert-dir={self.folder}",
            ],
            stdout=log,
            stderr=log,
        )
        self._wait_ready()

    def _wait_ready(self) -> None:
        context = ssl.create_default_context(cafile=str(self.ca.path))
        context.load_cert_chain(*map(str, self.admin_cert))
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            if self._api is not None and self._api.poll() is not None:
                break
            try:
                with urllib.request.urlopen(f"{self.url}/readyz", context=context, timeout=2) as answer:
                    if answer.status == 200:
                        return
            except (urllib.error.URLError, OSError):
                time.sleep(0.2)
        tail = (self.folder / "apiserver.log").read_text(errors="replace")[-2000:]
        raise RuntimeError(f"kube-apiserver did not become ready:\n{tail}")

    def stop_api(self) -> None:
        """Take the API server away."""
        self._stop(self._api)
        self._api = None

    def stop_etcd(self) -> None:
        """Take etcd away; its data stay."""
        self._stop(self._etcd)
        self._etcd = None

    def stop(self) -> None:
        """Stop both."""
        self.stop_api()
        self.stop_etcd()

    @contextlib.contextmanager
    def without_api(self) -> Iterator[None]:
        """Take the API server away for the block."""
        self.stop_api()
        try:
            yield
        finally:
            self.start_api()

    @staticmethod
    def _stop(process: subprocess.Popen[bytes] | None) -> None:
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
