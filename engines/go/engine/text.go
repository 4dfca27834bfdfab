package engine

import (
	"strings"
	"unicode/utf8"
)

// valid is text with U+FFFD for what isn't UTF-8: one for each longest beginning of a character, as Unicode recommends and the
// other languages' decoders do it; strings.ToValidUTF8 makes one of a whole run.
func valid(text string) string {
	if utf8.ValidString(text) {
		return text
	}
	var builder strings.Builder
	for len(text) > 0 {
		character, size := utf8.DecodeRuneInString(text)
		if character == utf8.RuneError && size == 1 {
			size = lengthOfBroken(text)
		}
		builder.WriteRune(character)
		text = text[size:]
	}
	return builder.String()
}

// lengthOfBroken is how many of the first bytes could have begun a character: Unicode's table 3-7.
func lengthOfBroken(text string) int {
	more, low, high := 0, byte(0x80), byte(0xBF)
	switch first := text[0]; {
	case first >= 0xC2 && first <= 0xDF:
		more = 1
	case first >= 0xE0 && first <= 0xEF:
		more = 2
	case first >= 0xF0 && first <= 0xF4:
		more = 3
	}
	switch text[0] {
	case 0xE0:
		low = 0xA0
	case 0xED:
		high = 0x9F
	case 0xF0:
		low = 0x90
	case 0xF4:
		high = 0x8F
	}
	length := 1
	for length <= more && length < len(text) && low <= text[length] && text[length] <= high {
		length++
		low, high = 0x80, 0xBF
	}
	return length
}
