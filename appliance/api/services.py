"""What the API is given when it is made: the opened parts that its routes use, and its options."""

from dataclasses import dataclass

import msgspec

from appliance.access import Access
from appliance.builds import Builds
from appliance.calls import Calls
from appliance.codes import Rules
from appliance.health import Health
from appliance.metrics import Metrics
from appliance.storage.interface import Storage


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """What the routes use, open and ready."""

    storage: Storage
    calls: Calls
    builds: Builds
    access: Access
    health: Health
    metrics: Metrics


class ApiOptions(msgspec.Struct, frozen=True, kw_only=True):
    """`trusted_proxies`: addresses or networks.

    `ui_path`: where a browser that asks for `/` is sent; None as long as there are no pages.
    """

    version: str
    rules: Rules
    max_body_bytes: int
    html_sandbox: bool
    cors_origins: tuple[str, ...]
    trusted_proxies: tuple[str, ...]
    ui_path: str | None
