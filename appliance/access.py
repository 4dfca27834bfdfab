"""Who is calling, and what they may do in a project.

Standalone, whoever has the admin token is the administrator; with `AUTH=none` everybody is. The tokens travel as bytes: a
header has no encoding, and a token that isn't ASCII must still match.
"""

import hmac
from enum import StrEnum

import msgspec

from appliance.entities import Role
from appliance.errors import Forbidden, NotFound, Unauthenticated
from appliance.storage.interface import Permissions

_SCHEMES = (b"token", b"bearer")


class Kind(StrEnum):
    ADMIN = "admin"
    SERVICE = "service"
    USER = "user"


class Principal(msgspec.Struct, frozen=True, kw_only=True):
    """A caller that is known; `email` is a user's."""

    kind: Kind
    email: str = ""


ADMIN = Principal(kind=Kind.ADMIN)
ANYBODY = Principal(kind=Kind.USER)  # who wasn't asked; has no role anywhere


class Access:
    """An empty token is an unset one, and opens nothing."""

    def __init__(
        self,
        *,
        admin_token: str,
        auth_token: str,
        metrics_token: str,
        open_to_all: bool,
        permissions: Permissions,
    ) -> None:
        self._admin_token = admin_token.encode()
        self._auth_token = auth_token.encode()
        self._metrics_token = metrics_token.encode()
        self._open_to_all = open_to_all
        self._permissions = permissions

    async def principal(self, authorization: bytes) -> Principal:
        """Who sends this `Authorization` to the management API."""
        if self._open_to_all or _matches(authorization, self._admin_token):
            return ADMIN
        if not authorization:
            raise Unauthenticated("a token is required: Authorization: Token <the admin token>")
        raise Unauthenticated("the token in Authorization isn't valid")

    def may_run(self, authorization: bytes) -> None:
        """`POST /run` has a token of its own, which `AUTH=none` doesn't open."""
        if not _matches(authorization, self._auth_token, self._admin_token):
            raise Unauthenticated("a valid token is required: Authorization: Token <AUTH_TOKEN>")

    def may_see_code_ids(self, authorization: bytes) -> bool:
        """Of `/metrics`: an action's id is the key to call it."""
        return _matches(authorization, self._metrics_token, self._admin_token)

    async def read(self, principal: Principal, project_uuid: str) -> None:
        await self._require(principal, project_uuid, Role.VIEWER)

    async def write(self, principal: Principal, project_uuid: str) -> None:
        await self._require(principal, project_uuid, Role.MODERATOR)

    async def _require(self, principal: Principal, project_uuid: str, least: Role) -> None:
        if principal.kind is not Kind.USER:
            return
        try:
            role = (await self._permissions.find(project_uuid, principal.email)).role
        except NotFound:
            raise Forbidden("no permission in this project") from None
        if role < least:
            raise Forbidden(f"this takes the role of a {least.name.lower()} in the project")


def _matches(authorization: bytes, *tokens: bytes) -> bool:
    """In constant time: every token is compared whole, whatever the one before it said."""
    scheme, _, sent = authorization.strip().partition(b" ")
    found = [hmac.compare_digest(sent.strip(), token) and token != b"" for token in tokens]
    return scheme.lower() in _SCHEMES and any(found)
