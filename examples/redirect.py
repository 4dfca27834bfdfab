"""Short links: sends the browser on to the address that belongs to the parameter `to`."""

LINKS = {
    "docs": "https://docs.python.org/3/",
    "status": "https://www.githubstatus.com/",
}


def Run(engine):
    # Only addresses of our own list: one taken from the caller would lend our name to any site.
    address = LINKS.get(engine.params.get("to", ""))
    if address is None:
        engine.result.set(f"known links: {', '.join(LINKS)}", status_code=404)
        return

    engine.log.info(f"to {address}")
    engine.result.set("", status_code=302, headers={"Location": address})
