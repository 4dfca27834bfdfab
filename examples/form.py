"""Takes an HTML form (application/x-www-form-urlencoded), checks its fields, and answers in plain text."""

from urllib.parse import parse_qs


def Run(engine):
    fields = parse_qs(engine.body, keep_blank_values=True)
    name = fields.get("name", [""])[0].strip()
    email = fields.get("email", [""])[0].strip()
    topics = fields.get("topic", [])  # a field may be there several times

    problems = []
    if not name:
        problems.append("name: please fill it in")
    if "@" not in email:
        problems.append("email: this isn't an address")
    if problems:
        engine.result.set("\n".join(problems), status_code=422)
        return

    engine.log.info(f"from {name}, {len(topics)} topics")
    engine.result.set(f"Thank you, {name}. Topics: {', '.join(topics) or 'none'}.")
