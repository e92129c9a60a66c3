package kmsapi

// Shape is what a member must be on the wire, in the words of AWS's
// SerializationException for one that is something else.
type Shape string

// Shapes of members.
const (
	StringShape    Shape = " can not be converted to an String"
	IntegerShape   Shape = " can not be converted to an Integer"
	BooleanShape   Shape = " can not be converted to an Boolean"
	BlobShape      Shape = " can not be converted to a Blob"
	TimestampShape Shape = " can not be converted to milliseconds since epoch"
	ListShape      Shape = "Expected list or null"
	MapShape       Shape = "Expected map or null"
	StructureShape Shape = "Expected null"
)

// WrongType says that a JSON value is not of the shape; kind is the value's
// first byte.
func WrongType(kind byte, want Shape) *Error {
	switch {
	case kind == '[':
		return Serialization("Start of list found where not expected")
	case kind == '{':
		return Serialization("Start of structure or map found where not expected.")
	case want[0] != ' ':
		return Serialization(string(want))
	case kind == '"':
		return Serialization("class java.lang.String" + string(want))
	case kind == 't' || kind == 'f':
		return Serialization("class java.lang.Boolean" + string(want))
	case kind == 'n':
		return Serialization("null" + string(want))
	default:
		return Serialization("class com.amazon.coral.value.json.numbers.TruncatingBigNumber" + string(want))
	}
}

// UnknownMember refuses a member that the operation does not have. AWS drops
// such members; one that we don't know might narrow what the caller wants.
func UnknownMember(name string) *Error {
	return Serialization("Member '" + name + "' is not recognized")
}

// DuplicateMember refuses a member that stands twice in one object.
func DuplicateMember(name string) *Error {
	return Serialization("Member '" + name + "' is given more than once")
}
