package main

import (
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"
)

const sampleFile = "../../deployments/kmsgate.yaml"

// TestSampleIsWhole wants the sample configuration to be accepted and to have every
// key that there is, at least in a comment.
func TestSampleIsWhole(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(sampleFile)
	if err != nil {
		t.Fatal(err)
	}
	uncommented := regexp.MustCompile(`(?m)^( *)#(\S+:( .*)?|  (certificate|key): .*)$`).ReplaceAllString(string(text), "$1$2")
	for name, text := range map[string]string{
		"as it is":               string(text),
		"with its optional keys": strings.Replace(uncommented, "        label: kmsgate\n", "", 1),
	} {
		if _, err := parseConfig([]byte(text)); err != nil {
			t.Errorf("the sample %s: %v", name, err)
		}
	}
	for _, key := range keysOf(reflect.TypeFor[config](), "") {
		name := key[strings.LastIndex(key, ".")+1:]
		if !regexp.MustCompile(`(?m)^[ #-]*` + name + `:`).MatchString(string(text)) {
			t.Errorf("the sample has no key %s", key)
		}
	}
}

// TestSampleHasTheDefaults wants what the sample calls optional to be the default:
// who leaves it out gets the same.
func TestSampleHasTheDefaults(t *testing.T) {
	t.Parallel()
	c, err := readConfig(sampleFile)
	if err != nil {
		t.Fatal(err)
	}
	if !*c.Throttling || c.Log != "info" || c.Database.AllowUnsafeDurability {
		t.Errorf("throttling %v, log %s, allow_unsafe_durability %v; want true, info, false", *c.Throttling, c.Log, c.Database.AllowUnsafeDurability)
	}
}

// keysOf are the keys of a part of the configuration, with their path.
func keysOf(part reflect.Type, path string) []string {
	switch part.Kind() {
	case reflect.Slice, reflect.Pointer:
		return keysOf(part.Elem(), path)
	case reflect.Struct:
	default:
		return nil
	}
	var keys []string
	for field := range part.Fields() {
		name, _, _ := strings.Cut(field.Tag.Get("yaml"), ",")
		keys = append(keys, path+name)
		keys = append(keys, keysOf(field.Type, path+name+".")...)
	}
	return keys
}
