"""Who may use a route: nobody is asked at the public ones, `/run` has its token, the rest is the management API."""

from quart.wrappers import Request

from appliance.access import ANYBODY, Access, Principal
from appliance.api.incoming import header
from appliance.api.routes import Auth


async def authenticate(access: Access, auth: Auth, request: Request) -> Principal:
    if auth is Auth.NONE:
        return ANYBODY
    authorization = header(request, b"authorization")
    if auth is Auth.RUN:
        access.may_run(authorization)
        return ANYBODY
    return await access.principal(authorization)
