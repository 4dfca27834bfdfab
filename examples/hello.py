"""Greets by name, in the language that the caller asks for, and says what it was sent."""

GREETINGS = {"en": "Hello", "pt": "Olá", "es": "Hola"}


def Run(engine):
    name = engine.params.get("name", "world")
    language = engine.header.get("Accept-Language")[:2].lower()
    engine.log.info(f"greeting {name}")
    engine.log.debug(f"language asked for: {language or 'none'}")
    if language not in GREETINGS:
        language = "en"
    engine.log.info(f"language used: {language}")

    engine.result.set({"message": f"{GREETINGS[language]}, {name}!", "received": engine.body}, content_type="json")
