package engine

import (
	"fmt"
	"regexp"
	"sort"
	"strconv"
	"strings"
)

// What an action's answer may be. The server has the same rules (engines/python/checks.py) and checks again: the channel is
// writable by the action.

// Option says something of an answer beside its value.
type Option func(*answer)

type answer struct {
	statusCode  int
	contentType string
	headers     [][2]string
	given       map[string]string
}

// StatusCode is the answer's status, from 200 to 599.
func StatusCode(status int) Option { return func(answer *answer) { answer.statusCode = status } }

// ContentType is text, json, html or a media type.
func ContentType(name string) Option { return func(answer *answer) { answer.contentType = name } }

// Headers are the answer's headers.
func Headers(headers map[string]string) Option {
	return func(answer *answer) { answer.given = headers }
}

const (
	tokenPattern  = "[!#$%&'*+.^_`|~0-9A-Za-z-]+"
	quotedPattern = `"(?:[\t \x21\x23-\x5b\x5d-\x7e]|\\[\t \x21-\x7e])*"`
	maxHeaders    = 16 * 1024
	ownCookies    = "codeactions"
)

// Compiled when they are wanted: most answers are text, json or html without headers.
func matches(pattern, text string) bool {
	return regexp.MustCompile(`\A(?:` + pattern + `)\z`).MatchString(text)
}

func isMediaType(text string) bool {
	parameter := tokenPattern + "=(?:" + tokenPattern + "|" + quotedPattern + ")"
	return matches(tokenPattern+"/"+tokenPattern+`(?:[ \t]*;(?:[ \t]*`+parameter+`)?)*`, text)
}

var forbidden = map[string]bool{
	"connection": true, "keep-alive": true, "proxy-connection": true, "te": true, "trailer": true, "trailers": true,
	"transfer-encoding": true, "upgrade": true, "proxy-authenticate": true, "proxy-authorization": true,
	"content-length": true, "date": true, "server": true, "x-run-id": true,
	"clear-site-data": true, "service-worker-allowed": true, "strict-transport-security": true,
}

// invalid is what a wrong option panics with; the runtime prints its text.
type invalid string

func (problem invalid) Error() string { return string(problem) }

func (answer *answer) check() {
	if answer.statusCode < 200 || answer.statusCode > 599 {
		panic(invalid(fmt.Sprintf("status_code %d: it must be a number from 200 to 599", answer.statusCode)))
	}
	names := make([]string, 0, len(answer.given))
	for name := range answer.given {
		names = append(names, name)
	}
	sort.Strings(names)
	size := 0
	answer.headers = [][2]string{}
	for _, name := range names {
		value := checkedHeader(name, answer.given[name])
		size += len(name) + len(value)
		if strings.EqualFold(name, "content-type") {
			answer.contentType = value
			continue
		}
		answer.headers = append(answer.headers, [2]string{name, value})
	}
	if size > maxHeaders {
		panic(invalid(fmt.Sprintf("headers: more than %d bytes in all", maxHeaders)))
	}
	checkContentType(answer.contentType)
}

func checkContentType(value string) {
	switch value {
	case "text", "json", "html":
		return
	}
	if len([]rune(value)) > 256 || !(matches(tokenPattern, value) || isMediaType(value)) {
		panic(invalid(fmt.Sprintf("content_type %s: it must be text, json, html or a media type such as text/csv", shown(value))))
	}
}

func checkedHeader(name, value string) string {
	if !matches(tokenPattern, name) {
		panic(invalid(fmt.Sprintf("header %s: not a valid header name", shown(name))))
	}
	if forbidden[strings.ToLower(name)] {
		panic(invalid(fmt.Sprintf("header %s: an action may not set it", name)))
	}
	text := strings.Trim(value, " \t")
	if !matches(`[\t\x20-\x7e]*`, text) {
		panic(invalid(fmt.Sprintf("header %s: its value may hold only printable ASCII, no line breaks", name)))
	}
	if strings.EqualFold(name, "set-cookie") && isOwnCookie(text) {
		panic(invalid(fmt.Sprintf("header %s: cookies named %s… belong to the appliance", name, ownCookies)))
	}
	return text
}

// isOwnCookie: browsers send a nameless cookie `=a=b` as `a=b`, so what comes before a name doesn't count.
func isOwnCookie(value string) bool {
	name := strings.ToLower(strings.TrimLeft(value, " \t="))
	name = strings.TrimPrefix(strings.TrimPrefix(name, "__host-"), "__secure-")
	return strings.HasPrefix(name, ownCookies)
}

func shown(value string) string {
	text := []rune(strconv.Quote(value))
	if len(text) > 80 {
		return string(text[:79]) + "…"
	}
	return string(text)
}

func isJSON(contentType string) bool {
	essence := strings.ToLower(strings.TrimSpace(strings.SplitN(contentType, ";", 2)[0]))
	return essence == "json" || essence == "application/json" || strings.HasSuffix(essence, "+json")
}
