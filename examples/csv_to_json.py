"""Takes CSV in the body, first line the names, and returns a JSON array of objects."""

import csv
import io


def Run(engine):
    # Spreadsheets put a byte-order mark in front, and some use semicolons.
    text = engine.body.removeprefix("\ufeff")
    delimiter = engine.params.get("delimiter") or (";" if text.partition("\n")[0].count(";") else ",")
    rows = list(csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter))
    if not rows:
        engine.result.set({"error": "the body must be CSV with a line of names"}, status_code=400, content_type="json")
        return

    engine.log.info(f"{len(rows)} rows of {', '.join(rows[0])}")
    engine.result.set(rows, content_type="json")
