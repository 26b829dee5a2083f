"""Valid and invalid certificates for collectors and clients."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import trustme

DAY = timedelta(days=1)


class Certificates:
    """Certificates of a trusted authority, and of one that no client trusts."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.authority = trustme.CA()
        self.stranger = trustme.CA()
        now = datetime.now(timezone.utc)
        past: dict[str, Any] = {"not_before": now - 2 * DAY, "not_after": now - DAY}
        future: dict[str, Any] = {"not_before": now + DAY, "not_after": now + 2 * DAY}
        self.good = self.authority.issue_cert("127.0.0.1")
        self.expired = self.authority.issue_cert("127.0.0.1", **past)
        self.early = self.authority.issue_cert("127.0.0.1", **future)
        self.elsewhere = self.authority.issue_cert("collector.example.com")
        self.unknown = self.stranger.issue_cert("127.0.0.1")
        self.client = self.authority.issue_cert("agent@example.com")
        self.expired_client = self.authority.issue_cert("agent@example.com", **past)
        self.unknown_client = self.stranger.issue_cert("agent@example.com")

    @property
    def strange_bundle(self) -> str:
        """A file with only the untrusted authority."""
        file = self._folder / "bundle.pem"
        file.write_bytes(self.stranger.cert_pem.bytes())
        return str(file)

    def settings(self, client: trustme.LeafCert | None = None) -> dict[str, str]:
        """Return a `tls` setting that trusts the authority and presents the client certificate."""
        files = {"ca-certificate": self.authority.cert_pem.bytes()}
        if client is not None:
            files["client-certificate"] = b"".join(pem.bytes() for pem in client.cert_chain_pems)
            files["client-private-key"] = client.private_key_pem.bytes()
        names = {}
        for key, pem in files.items():
            file = self._folder / f"{key}-{id(client)}.pem"
            file.write_bytes(pem)
            names[key] = str(file)
        return names
