package engine

import (
	"bytes"
	"reflect"
	"strings"
)

// member is a field as encoding/json writes it: under which name, and how deep in embedded structs it was found.
type member struct {
	name    string
	value   reflect.Value
	depth   int
	isNamed bool // by its tag
}

// membersOf returns what encoding/json writes of a struct, in its order.
func membersOf(value reflect.Value) []member {
	all := gather(nil, value, 0)
	members := all[:0:0]
	for index, one := range all {
		if isDominant(all, index) && one.value.IsValid() {
			members = append(members, one)
		}
	}
	return members
}

func gather(members []member, value reflect.Value, depth int) []member {
	for index := 0; index < value.NumField(); index++ {
		field := value.Type().Field(index)
		name, options, _ := strings.Cut(field.Tag.Get("json"), ",")
		if embedded, is := embeddedStruct(field, value.Field(index)); is && name == "" {
			if embedded.IsValid() && depth < maxEmbedded {
				members = gather(members, embedded, depth+1)
			}
			continue
		}
		if !field.IsExported() || field.Tag.Get("json") == "-" {
			continue
		}
		one := member{name, value.Field(index), depth, name != ""}
		if name == "" {
			one.name = field.Name
		}
		if isLeftOut(options, one.value) {
			one.value = reflect.Value{}
		}
		members = append(members, one)
	}
	return members
}

const maxEmbedded = 32 // a struct may embed a pointer to itself

// embeddedStruct: whether the fields of this one count as those of the struct around it. Of a nil pointer there are none.
func embeddedStruct(field reflect.StructField, value reflect.Value) (reflect.Value, bool) {
	if !field.Anonymous {
		return value, false
	}
	if field.Type.Kind() == reflect.Pointer && field.Type.Elem().Kind() == reflect.Struct {
		return value.Elem(), true
	}
	return value, field.Type.Kind() == reflect.Struct
}

// isDominant: of several of a name the least deep is written; of several so deep the one that a tag names; else none.
func isDominant(members []member, index int) bool {
	this := members[index]
	for other, rival := range members {
		if other == index || rival.name != this.name {
			continue
		}
		isWeaker := rival.depth > this.depth || rival.depth == this.depth && this.isNamed && !rival.isNamed
		if !isWeaker {
			return false
		}
	}
	return true
}

func isLeftOut(options string, value reflect.Value) bool {
	for _, option := range strings.Split(options, ",") {
		if option == "omitzero" && value.IsZero() || option == "omitempty" && isEmpty(value) {
			return true
		}
	}
	return false
}

func isEmpty(value reflect.Value) bool {
	switch value.Kind() {
	case reflect.Array, reflect.Map, reflect.Slice, reflect.String:
		return value.Len() == 0
	case reflect.Struct:
		return false
	}
	return value.IsZero()
}

// object is a struct's members as JSON, in their order.
type object []named

type named struct {
	name  string
	value any
}

func (members object) MarshalJSON() ([]byte, error) {
	var buffer bytes.Buffer
	buffer.WriteByte('{')
	for index, one := range members {
		if index > 0 {
			buffer.WriteByte(',')
		}
		name, _ := marshal(one.name)
		value, err := marshal(one.value)
		if err != nil {
			return nil, err
		}
		buffer.Write(name)
		buffer.WriteByte(':')
		buffer.Write(value)
	}
	buffer.WriteByte('}')
	return buffer.Bytes(), nil
}
