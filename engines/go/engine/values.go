package engine

import (
	"bytes"
	"encoding"
	"encoding/json"
	"fmt"
	"reflect"
)

// bytesOf is what Result.Set makes of a value. What JSON can't hold becomes its text (%v): inside a map, slice or struct as a
// JSON string, so that the JSON stays valid; on its own as plain text, or as a JSON string when the content type is JSON. So
// does an error, of which encoding/json would write the exported fields, mostly none.
func bytesOf(value any, asJSON bool) []byte {
	switch typed := value.(type) {
	case string:
		return []byte(valid(typed))
	case []byte:
		return typed
	}
	if text, isText := textOf(reflect.ValueOf(value)); isText {
		return text
	}
	if text, err := marshal(value); err == nil && !holdsError(reflect.ValueOf(value)) {
		return text
	}
	plain := plainOf(reflect.ValueOf(value), nil)
	if text, isText := plain.(string); isText && !asJSON {
		return []byte(valid(text))
	}
	text, err := marshal(plain)
	if err != nil {
		panic(err)
	}
	return text
}

// textOf is what a type of the author's own holds that is a string or bytes, and doesn't say itself how it is to be written.
func textOf(value reflect.Value) ([]byte, bool) {
	if !value.IsValid() {
		return nil, false
	}
	switch value.Interface().(type) {
	case json.Marshaler, encoding.TextMarshaler, error:
		return nil, false
	}
	switch {
	case value.Kind() == reflect.String:
		return []byte(valid(value.String())), true
	case value.Kind() == reflect.Slice && value.Type().Elem().Kind() == reflect.Uint8:
		return value.Bytes(), true
	}
	return nil, false
}

func marshal(value any) ([]byte, error) {
	var buffer bytes.Buffer
	encoder := json.NewEncoder(&buffer)
	encoder.SetEscapeHTML(false)
	err := encoder.Encode(value)
	return bytes.TrimSuffix(buffer.Bytes(), []byte("\n")), err
}

const circle = "[...]" // what stands for a value that holds itself

// holdsError: whether there is an error in it that doesn't say itself how it is to be written. value has been marshalled, so it
// doesn't hold itself.
func holdsError(value reflect.Value) bool {
	if !value.IsValid() || !mayHoldError(value.Type(), map[reflect.Type]bool{}) {
		return false
	}
	if value.CanInterface() {
		switch value.Interface().(type) {
		case json.Marshaler, encoding.TextMarshaler:
			return false
		case error:
			return !isNil(value)
		}
	}
	switch value.Kind() {
	case reflect.Pointer, reflect.Interface:
		return holdsError(value.Elem())
	case reflect.Map:
		for entries := value.MapRange(); entries.Next(); {
			if holdsError(entries.Value()) {
				return true
			}
		}
	case reflect.Slice, reflect.Array:
		for index := 0; index < value.Len(); index++ {
			if holdsError(value.Index(index)) {
				return true
			}
		}
	case reflect.Struct:
		for _, one := range membersOf(value) {
			if holdsError(one.value) {
				return true
			}
		}
	}
	return false
}

var errorType = reflect.TypeOf((*error)(nil)).Elem()

// mayHoldError spares a look at each item of a long slice: seen are the types that are being looked at.
func mayHoldError(held reflect.Type, seen map[reflect.Type]bool) bool {
	if held.Implements(errorType) || held.Kind() == reflect.Interface {
		return true
	}
	if seen[held] {
		return false
	}
	seen[held] = true
	switch held.Kind() {
	case reflect.Pointer, reflect.Map, reflect.Slice, reflect.Array:
		return mayHoldError(held.Elem(), seen)
	case reflect.Struct:
		for index := 0; index < held.NumField(); index++ {
			if mayHoldError(held.Field(index).Type, seen) {
				return true
			}
		}
	}
	return false
}

func isNil(value reflect.Value) bool {
	switch value.Kind() {
	case reflect.Pointer, reflect.Map, reflect.Slice, reflect.Interface, reflect.Func, reflect.Chan:
		return value.IsNil()
	}
	return false
}

// plainOf returns value with all that JSON can't hold as its text. above are the containers that hold it.
func plainOf(value reflect.Value, above []uintptr) any {
	if !value.IsValid() || isNil(value) {
		return nil
	}
	switch value.Kind() {
	case reflect.Pointer, reflect.Map, reflect.Slice:
		for _, address := range above {
			if address == value.Pointer() {
				return circle
			}
		}
		above = append(above[:len(above):len(above)], value.Pointer())
	case reflect.Interface:
		return plainOf(value.Elem(), above)
	}
	if value.CanInterface() && isLeaf(value) {
		return plainOfLeaf(value.Interface())
	}
	return plainOfContainer(value, above)
}

// isLeaf: what says itself how it is to be written, and what holds nothing.
func isLeaf(value reflect.Value) bool {
	switch value.Interface().(type) {
	case json.Marshaler, encoding.TextMarshaler, error, []byte:
		return true
	}
	switch value.Kind() {
	case reflect.Pointer, reflect.Map, reflect.Slice, reflect.Array, reflect.Struct:
		return false
	}
	return true
}

func plainOfLeaf(value any) any {
	switch typed := value.(type) {
	case json.Marshaler, encoding.TextMarshaler:
	case error:
		return typed.Error()
	}
	if _, err := marshal(value); err != nil {
		return fmt.Sprint(value)
	}
	return value
}

func plainOfContainer(value reflect.Value, above []uintptr) any {
	switch value.Kind() {
	case reflect.Pointer:
		return plainOf(value.Elem(), above)
	case reflect.Map:
		members := map[string]any{}
		for _, key := range value.MapKeys() {
			members[keyOf(key)] = plainOf(value.MapIndex(key), above)
		}
		return members
	case reflect.Struct:
		return plainOfStruct(value, above)
	}
	items := make([]any, value.Len())
	for index := range items {
		items[index] = plainOf(value.Index(index), above)
	}
	return items
}

func keyOf(key reflect.Value) string {
	if text, err := key.Interface().(encoding.TextMarshaler); err {
		if bytes, err := text.MarshalText(); err == nil {
			return string(bytes)
		}
	}
	return fmt.Sprint(key.Interface())
}

func plainOfStruct(value reflect.Value, above []uintptr) any {
	members := object{}
	for _, one := range membersOf(value) {
		members = append(members, named{one.name, plainOf(one.value, above)})
	}
	return members
}
