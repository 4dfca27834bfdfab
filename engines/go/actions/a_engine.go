// What the author of an action sees without an import: the contract's names, in the package of the action.
// The file's name comes before the author's: of two declarations the compiler blames the later one.
package actions

import codeactions_engine "codeactions/engine"

type (
	Engine  = codeactions_engine.Engine
	Params  = codeactions_engine.Params
	Header  = codeactions_engine.Header
	Log     = codeactions_engine.Log
	Result  = codeactions_engine.Result
	Request = codeactions_engine.Request
	Option  = codeactions_engine.Option
)

// StatusCode is the answer's status, from 200 to 599; 200 if not given.
func StatusCode(status int) Option { return codeactions_engine.StatusCode(status) }

// ContentType is text, json, html or a media type such as text/csv; text if not given.
func ContentType(name string) Option { return codeactions_engine.ContentType(name) }

// Headers are the answer's headers.
func Headers(headers map[string]string) Option { return codeactions_engine.Headers(headers) }
