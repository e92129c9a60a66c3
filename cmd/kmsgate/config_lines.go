package main

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// places are the keys of a configuration by path, with their lines.
type places map[string]int

// placesOf finds the keys of a file; it returns what it can of a broken one.
func placesOf(text []byte) places {
	p := places{}
	var root yaml.Node
	if err := yaml.Unmarshal(text, &root); err == nil && len(root.Content) > 0 {
		p.collect("", root.Content[0])
	}
	return p
}

func (p places) collect(path string, n *yaml.Node) {
	switch n.Kind {
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			key := strings.TrimPrefix(path+"."+n.Content[i].Value, ".")
			p[key] = n.Content[i].Line
			p.collect(key, n.Content[i+1])
		}
	case yaml.SequenceNode:
		for i, item := range n.Content {
			key := fmt.Sprintf("%s[%d]", path, i)
			p[key] = item.Line
			p.collect(key, item)
		}
	case yaml.DocumentNode, yaml.ScalarNode, yaml.AliasNode:
	}
}

// line is where a key stands, or what it would stand in; 0 for neither.
func (p places) line(key string) int {
	for key != "" {
		if line, ok := p[key]; ok {
			return line
		}
		key = key[:max(strings.LastIndexAny(key, ".["), 0)]
	}
	return 0
}

// keyAt is the innermost key on a line; empty for none.
func (p places) keyAt(line int) (key string) {
	for k, l := range p {
		if l == line && len(k) > len(key) {
			key = k
		}
	}
	return key
}

// atLine adds the line of the key that an error is about.
func atLine(err error, text []byte) error {
	wrong, ok := errors.AsType[*configError](err)
	if !ok {
		return err
	}
	if line := placesOf(text).line(wrong.key); line > 0 {
		return fmt.Errorf("line %d: %w", line, wrong)
	}
	return wrong
}

var (
	// unknownKey is how the YAML library says that a key is unknown.
	unknownKey = regexp.MustCompile(`line (\d+): field (\S+) not found in type \S+`)
	// wrongType is how it says that a value is of another type.
	wrongType = regexp.MustCompile("line (\\d+): cannot unmarshal !!(\\S+) `([^`]*)` into (\\S+)")
)

// typeNames are what our types are to whoever writes the file.
var typeNames = map[string]string{
	"bool": "true or false", "int": "a number", "int32": "a number", "string": "text",
	"uint": "a number", "[]uint": "a list of numbers", "hsm.Residency": "text",
	"time.Duration": "a duration like 10s",
}

// explainYAML says what is wrong in the words of the file, not of our types.
func explainYAML(err error, text []byte) error {
	keys := placesOf(text)
	said := unknownKey.ReplaceAllString(err.Error(), `line $1: unknown key "$2"`)
	said = wrongType.ReplaceAllStringFunc(said, func(found string) string {
		part := wrongType.FindStringSubmatch(found)
		line, _ := strconv.Atoi(part[1]) // digits
		want, ok := typeNames[part[4]]
		if !ok {
			want = "something else" // a list or a map
		}
		return fmt.Sprintf("line %d: %s: %q is not %s", line, keys.keyAt(line), part[3], want)
	})
	said = strings.TrimPrefix(strings.TrimPrefix(said, "yaml: "), "unmarshal errors:\n  ")
	return errors.New(strings.ReplaceAll(said, "\n  ", "; "))
}
