// Greets by name, in the language that the caller asks for, and says what it was sent.
package actions

import "strings"

var greetings = map[string]string{"en": "Hello", "pt": "Olá", "es": "Hola"}

func Run(engine *Engine) {
	name := engine.Params.Get("name")
	if name == "" {
		name = "world"
	}
	engine.Log.Info("greeting " + name)
	greeting, isKnown := greetings[strings.ToLower(firstTwo(engine.Header.Get("Accept-Language")))]
	if !isKnown {
		greeting = greetings["en"]
	}
	answer := map[string]string{"message": greeting + ", " + name + "!", "received": engine.Body}
	engine.Result.Set(answer, ContentType("json"))
}

func firstTwo(text string) string {
	if len(text) < 2 {
		return text
	}
	return text[:2]
}
