// Takes a web hook whose body is signed with a secret, and refuses what isn't.
package actions

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
)

const secret = "change me: the secret that you gave the sender"

func Run(engine *Engine) error {
	digest := hmac.New(sha256.New, []byte(secret))
	digest.Write(engine.Request.BodyBytes)
	expected := "sha256=" + hex.EncodeToString(digest.Sum(nil))
	if !hmac.Equal([]byte(expected), []byte(engine.Header.Get("X-Hub-Signature-256"))) {
		engine.Log.Error("a wrong signature")
		engine.Result.Set(map[string]string{"error": "the signature is wrong"}, StatusCode(401), ContentType("json"))
		return nil
	}
	var event struct {
		Action string `json:"action"`
	}
	if err := json.Unmarshal(engine.Request.BodyBytes, &event); err != nil {
		return err
	}
	engine.Result.Set(map[string]string{"accepted": event.Action}, StatusCode(202), ContentType("json"))
	return nil
}
