// Greets the caller by name, in the language that the browser asks for.
const GREETINGS = { en: "Hello", pt: "Olá", es: "Hola" };

function Run(engine) {
  const name = engine.params.get("name", "world");
  engine.log.info(`greeting ${name}`);
  const asked = engine.header.get("Accept-Language");
  const language = asked.slice(0, 2) in GREETINGS ? asked.slice(0, 2) : "en";
  console.log("language used:", language);
  engine.result.set({ message: `${GREETINGS[language]}, ${name}!`, received: engine.body }, { content_type: "json" });
}
