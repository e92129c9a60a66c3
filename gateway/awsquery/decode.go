package awsquery

import (
	"reflect"
	"slices"
	"strconv"
	"strings"

	"kmsgate/gateway/kmsapi"
)

// Decode puts the form's parameters into the struct that into points to. Its
// fields are strings, booleans and int32, structs (whose parameters are
// Name.Field), slices of these (Name.1, Name.2 and so on without a gap, or
// Name.member.1 with the tag "Name>member"), and pointers to any of them for what may be
// absent. The error is a ValidationError that names a parameter. Decode panics
// on a field of another type.
func (f Form) Decode(into any) *kmsapi.Error {
	return decodeStruct(reflect.ValueOf(into).Elem(), f.tree())
}

// node is a place in the tree that the dots in parameters' names make.
type node struct {
	name     string  // of the parameter that ends here, whole
	value    *string // of that; nil if none ends here
	children map[string]*node
}

func (f Form) tree() *node {
	root := &node{}
	for name, value := range f.values {
		n := root
		for step := range strings.SplitSeq(name, ".") {
			n = n.child(step)
		}
		n.name, n.value = name, &value
	}
	return root
}

// child is the child of a name; it is made if there is none.
func (n *node) child(step string) *node {
	c, ok := n.children[step]
	if ok {
		return c
	}
	if n.children == nil {
		n.children = map[string]*node{}
	}
	c = &node{}
	n.children[step] = c
	return c
}

// unknown refuses the first parameter, by name, that lies here or below.
func (n *node) unknown() *kmsapi.Error {
	for n.value == nil {
		first := ""
		for step := range n.children {
			if first == "" || step < first {
				first = step
			}
		}
		n = n.children[first]
	}
	return unknownParameter(n.name)
}

func decodeStruct(v reflect.Value, n *node) *kmsapi.Error {
	if n.value != nil {
		return unknownParameter(n.name)
	}
	var known []string
	for _, f := range reflect.VisibleFields(v.Type()) {
		path := pathOf(f)
		if f.Anonymous || !f.IsExported() || path[0] == "-" {
			continue
		}
		known = append(known, path[0])
		if child, ok := n.children[path[0]]; ok {
			if err := decodeField(v.FieldByIndex(f.Index), child, path[1:]); err != nil {
				return err
			}
		}
	}
	return n.only(known)
}

// only refuses the first child that is not one of the known.
func (n *node) only(known []string) *kmsapi.Error {
	var unknown []string
	for step := range n.children {
		if !slices.Contains(known, step) {
			unknown = append(unknown, step)
		}
	}
	if len(unknown) == 0 {
		return nil
	}
	return n.children[slices.Min(unknown)].unknown()
}

// pathOf is the steps of a field's tag: "Tags>member,omitempty" has two.
func pathOf(f reflect.StructField) []string {
	path, _, _ := strings.Cut(f.Tag.Get("xml"), ",")
	if path == "" {
		return []string{f.Name}
	}
	return strings.Split(path, ">")
}

// decodeField goes the rest of a field's path. An empty list is sent as a
// parameter with its name and nothing else.
func decodeField(v reflect.Value, n *node, path []string) *kmsapi.Error {
	if len(path) == 0 {
		return decodeValue(v, n)
	}
	if n.value != nil {
		if *n.value != "" || n.children != nil {
			return unknownParameter(n.name)
		}
		v.Set(reflect.MakeSlice(v.Type(), 0, 0))
		return nil
	}
	if err := n.only(path[:1]); err != nil {
		return err
	}
	return decodeField(v, n.children[path[0]], path[1:])
}

func decodeValue(v reflect.Value, n *node) *kmsapi.Error {
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		return decodeValue(v.Elem(), n)
	case reflect.Struct:
		return decodeStruct(v, n)
	case reflect.Slice:
		return decodeList(v, n)
	default:
		return decodeScalar(v, n)
	}
}

func decodeList(v reflect.Value, n *node) *kmsapi.Error {
	if n.value != nil {
		return unknownParameter(n.name)
	}
	v.Set(reflect.MakeSlice(v.Type(), len(n.children), len(n.children)))
	numbers := make([]string, len(n.children))
	for i := range numbers {
		numbers[i] = strconv.Itoa(i + 1)
	}
	if err := n.only(numbers); err != nil {
		return err
	}
	for i, number := range numbers {
		if err := decodeValue(v.Index(i), n.children[number]); err != nil {
			return err
		}
	}
	return nil
}

func decodeScalar(v reflect.Value, n *node) *kmsapi.Error {
	if n.value == nil || n.children != nil {
		return n.only(nil)
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(*n.value)
	case reflect.Bool:
		if *n.value != "true" && *n.value != "false" {
			return wrongValue(n.name, "a boolean")
		}
		v.SetBool(*n.value == "true")
	case reflect.Int32:
		number, err := strconv.ParseInt(*n.value, 10, 32)
		if err != nil {
			return wrongValue(n.name, "an integer")
		}
		v.SetInt(number)
	default:
		panic("awsquery: no parameter can be a " + v.Type().String())
	}
	return nil
}
