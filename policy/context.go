package policy

import "strings"

// Context has the condition keys of one request. An implementation is only
// read, by one evaluation at a time unless it is safe for more, and asked for
// the keys that the policies name, so that it may work them out then.
type Context interface {
	// Values returns the values of a condition key and whether the request has
	// it; a key without values counts as absent. The key comes in lower case;
	// names are compared regardless of case. The slice stays the
	// implementation's.
	Values(key string) (values []string, present bool)
}

// Facts is a Context as a list; key names are in any letter case. Facts whose
// keys differ in case only are one key with the values of all.
type Facts []Fact

// Fact is one condition key with its values.
type Fact struct {
	Key    string
	Values []string
}

// Values implements Context; it allocates only for keys that stand twice.
func (f Facts) Values(key string) (values []string, present bool) {
	for i := range f {
		switch {
		case !strings.EqualFold(f[i].Key, key):
		case !present:
			values, present = f[i].Values, true
		default:
			values = append(values[:len(values):len(values)], f[i].Values...)
		}
	}
	return values, present
}

// lookUp asks a Context that may be nil; an absent key has no values.
func lookUp(ctx Context, key string) []string {
	if ctx == nil {
		return nil
	}
	values, present := ctx.Values(key)
	if !present {
		return nil
	}
	return values
}
