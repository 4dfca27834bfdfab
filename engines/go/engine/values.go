package engine

import (
	"bytes"
	"encoding"
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"strings"
)

// bytesOf is what Result.Set makes of a value. What JSON can't hold becomes its text (%v): inside a map, slice or struct as a
// JSON string, so that the JSON stays valid; on its own as plain text, or as a JSON string when the content type is JSON.
func bytesOf(value any, asJSON bool) []byte {
	switch typed := value.(type) {
	case string:
		return []byte(strings.ToValidUTF8(typed, "\uFFFD"))
	case []byte:
		return typed
	}
	if text, err := marshal(value); err == nil {
		return text
	}
	plain := plainOf(reflect.ValueOf(value), nil)
	if text, isText := plain.(string); isText && !asJSON {
		return []byte(strings.ToValidUTF8(text, "\uFFFD"))
	}
	text, err := marshal(plain)
	if err != nil {
		panic(err)
	}
	return text
}

func marshal(value any) ([]byte, error) {
	var buffer bytes.Buffer
	encoder := json.NewEncoder(&buffer)
	encoder.SetEscapeHTML(false)
	err := encoder.Encode(value)
	return bytes.TrimSuffix(buffer.Bytes(), []byte("\n")), err
}

const circle = "[...]" // what stands for a value that holds itself

// plainOf returns value with all that JSON can't hold as its text. above are the containers that hold it.
func plainOf(value reflect.Value, above []uintptr) any {
	if !value.IsValid() {
		return nil
	}
	switch value.Kind() {
	case reflect.Pointer, reflect.Map, reflect.Slice:
		if value.IsNil() {
			return nil
		}
		for _, address := range above {
			if address == value.Pointer() {
				return circle
			}
		}
		above = append(above[:len(above):len(above)], value.Pointer())
	case reflect.Interface:
		return plainOf(value.Elem(), above)
	case reflect.Float32, reflect.Float64:
		if number := value.Float(); !math.IsNaN(number) && !math.IsInf(number, 0) {
			return value.Interface()
		}
		return fmt.Sprint(value.Interface())
	}
	if value.CanInterface() && isLeaf(value) {
		if _, err := marshal(value.Interface()); err == nil {
			return value.Interface()
		}
		return fmt.Sprint(value.Interface())
	}
	return plainOfContainer(value, above)
}

// isLeaf: what says itself how it is to be written, and what holds nothing.
func isLeaf(value reflect.Value) bool {
	switch value.Interface().(type) {
	case json.Marshaler, encoding.TextMarshaler, []byte:
		return true
	}
	switch value.Kind() {
	case reflect.Pointer, reflect.Map, reflect.Slice, reflect.Array, reflect.Struct:
		return false
	}
	return true
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
	members := map[string]any{}
	for index := 0; index < value.NumField(); index++ {
		field := value.Type().Field(index)
		name, options, _ := strings.Cut(field.Tag.Get("json"), ",")
		isLeftOut := strings.Contains(options, "omitempty") && value.Field(index).IsZero()
		if !field.IsExported() || field.Tag.Get("json") == "-" || isLeftOut {
			continue
		}
		if name == "" {
			name = field.Name
		}
		members[name] = plainOf(value.Field(index), above)
	}
	return members
}
